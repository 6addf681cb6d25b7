"""The sampler's slow twin: one token after another in plain Python, fp32 by numpy's scalars, nothing shared with the package.

Run: python tests/inference/sampler_twin.py > tests/vectors/sampler/vectors.json writes the golden vectors.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from hashlib import sha256

import numpy as np

from paceline.base.hashing import hash_parts

MASK = 2**64 - 1
NEUTRAL = {
    "temperature_ppm": 1_000_000,
    "top_k": 0,
    "top_p_ppm": 1_000_000,
    "presence_ppm": 0,
    "frequency_ppm": 0,
    "bias": [],
}


def compute_noise_plainly(seed, position, token_id):
    key = int.from_bytes(hash_parts("gumbel", seed, position.to_bytes(8, "little"))[:8], "little")
    bits = (key + (token_id + 1) * 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & MASK
    bits ^= bits >> 31
    return -math.log(-math.log(min(((bits >> 11) + 0.5) * 2.0**-53, 1 - 2.0**-53)))


def choose_plainly(logits, options, allowed, own, seed, position):
    """The right token, and by how much it beats the next one. `allowed` None: no grammar; `own`: the answer so far."""
    f32 = np.float32
    scores = {token: f32(logit) for token, logit in enumerate(logits)}
    for token, millinats in options["bias"]:
        scores[token] = f32(scores[token] + f32(millinats / 1_000))
    for token, count in Counter(own).items():
        scores[token] = f32(scores[token] - f32((options["presence_ppm"] + options["frequency_ppm"] * count) / 10**6))
    if allowed is not None:
        scores = {token: score for token, score in scores.items() if token in allowed}
    if options["temperature_ppm"] == 0:
        return _pick(scores)
    scores = {token: f32(score / f32(options["temperature_ppm"] / 10**6)) for token, score in scores.items()}
    if options["top_k"]:
        least = sorted(scores.values(), reverse=True)[: options["top_k"]][-1]
        scores = {token: score for token, score in scores.items() if score >= least}
    if options["top_p_ppm"] < 10**6:
        scores = _keep_nucleus(scores, options["top_p_ppm"] / 10**6)
    return _pick({t: float(f32(s + f32(compute_noise_plainly(seed, position, t)))) for t, s in scores.items()})


def _keep_nucleus(scores, top_p):
    top = max(float(score) for score in scores.values())
    weights = {token: math.exp(float(score) - top) for token, score in scores.items()}
    total, reached = sum(weights.values()), 0.0
    for least in sorted(weights.values(), reverse=True):
        reached += least
        if reached / total >= top_p:
            break
    return {token: score for token, score in scores.items() if weights[token] >= least}


def _pick(scores):
    ranked = sorted(scores, key=lambda token: (-scores[token], token))
    lead = float(scores[ranked[0]]) - float(scores[ranked[1]]) if len(ranked) > 1 else math.inf
    return ranked[0], lead


def build_cases():
    """Cases in which every operator decides at least once, with leads that no rounding turns over."""
    source = random.Random(7)
    ways = [
        {}, {"temperature_ppm": 0}, {"temperature_ppm": 500_000}, {"temperature_ppm": 2_000_000}, {"top_k": 3},
        {"top_p_ppm": 600_000}, {"top_k": 4, "top_p_ppm": 700_000}, {"presence_ppm": 2_000_000}, {"presence_ppm": -2_000_000},
        {"frequency_ppm": 1_500_000}, {"bias": [[2, 100_000]]}, {"bias": [[0, -100_000], [5, 2_500]]},
        {"temperature_ppm": 0, "presence_ppm": 2_000_000, "bias": [[1, 1_500]]},
        {"temperature_ppm": 700_000, "top_k": 5, "top_p_ppm": 900_000, "presence_ppm": 400_000, "frequency_ppm": 300_000,
         "bias": [[3, 1_250], [7, -2_000]]},
    ]  # fmt: skip
    cases = []
    for options in (NEUTRAL | way for way in ways for _ in range(3)):
        while True:
            logits = [float(np.float32(source.gauss(0, 2))) for _ in range(10)]
            own = [source.randrange(10) for _ in range(source.randrange(1, 6))]
            allowed = sorted(source.sample(range(10), 6)) if source.random() < 0.4 else None
            seed, position = sha256(str(source.random()).encode()).digest(), source.randrange(2**20)
            token, lead = choose_plainly(logits, options, allowed, own, seed, position)
            plain, _ = choose_plainly(logits, NEUTRAL, allowed, own, seed, position)
            if lead > 1e-3 and (plain != token or options == NEUTRAL):
                break
        case = {"logits": [logit.hex() for logit in logits], "options": options, "allowed": allowed, "own": own}
        cases.append({**case, "seed": seed.hex(), "position": position, "token": token})
    return cases


def build_noises():
    seeds = [bytes(32), bytes(range(32)), b"\xff" * 32]
    return [
        {
            "seed": seed.hex(),
            "position": position,
            "token": token,
            "noise": compute_noise_plainly(seed, position, token),
        }
        for seed in seeds
        for position in (0, 1, 2**40)
        for token in (0, 1, 49_151, 2**31 - 1)
    ]


if __name__ == "__main__":
    print(json.dumps({"noise": build_noises(), "choices": build_cases()}, indent=1))  # noqa: T201
