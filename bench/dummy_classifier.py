"""How well a classifier tells dummies from users' requests by everything that an executor is shown, and by the ledger.

Run: OMP_NUM_THREADS=1 python bench/dummy_classifier.py [--dummies 2100] [--written FILE | --write FILE --cache FOLDER] [--ledger]
Requests come from `dummy_traffic`: simulated users and the sampling code of a relay. Half of the time is for training (the
classifier knows which were dummies, as reveals tell), the other half is held out: as many dummies as requests of users. Three
classifiers are trained, each chosen on a fifth of the training half: logistic regression on hashed letter n-grams, boosted trees
on the numbers, and both as inputs of a small network; the table names the best by that fifth, with its 95 % interval (Wilson).
Views: `one executor`, which knows its own requests only; `all executors`, which put together what they saw.
`--write` lets the served model write the prompts of the variant `written`; `--ledger` plays linkage on ledger records.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from dummy_traffic import SHARING, Relay, Sent, Users
from numpy.typing import NDArray
from torch import Tensor, nn

from paceline.economy.pay import compute_task_cost
from paceline.protocol.answers import ChatPrompt
from paceline.protocol.params import TINY
from paceline.protocol.prompt_words import TOPICS

BUCKETS = 1 << 16
MAX_CHARS = 1_200
GRAMS = (1, 2, 3, 4)
EPOCHS = 12
BATCH = 64
OFTEN_PPM = 300_000
"""Rate at which nearly all candidates of a session are sent, for a variant whose prompts are dear to make."""
BINS = 32
TREES = 150
ONE, ALL = "one executor", "all executors"
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Records:
    """What one view holds: texts, numbers (N, F), labels (N), in the order of time."""

    texts: list[str]
    numbers: Floats
    labels: NDArray[np.int64]

    def pick(self, rows: Sequence[int] | NDArray[np.int64]) -> Records:
        """Some of them."""
        return Records([self.texts[row] for row in rows], self.numbers[rows], self.labels[rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dummies", type=int, default=2_100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--written", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "paceline")
    parser.add_argument("--ledger", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.write is not None:
        write_prompts(given.write, given.cache, given.dummies * 5 // 4)
        return
    if given.ledger:
        from dummy_linkage import collect_ledger  # noqa: PLC0415 - it needs the tests' chain

        show("ledger records", ONE, collect_ledger(given.dummies, given.seed), given.seed)
        return
    if given.written is not None:
        written = json.loads(given.written.read_text("utf-8"))
        # Each is used once, or the classifier would learn them by heart.
        run_variant("written by the model", given, lambda _random, _chars: written.pop(), 0.0, OFTEN_PPM)
        return
    run_variant("opt-in resampled", given, None, SHARING)
    run_variant("shipped set", given, None, 0.0)


def run_variant(
    name: str,
    given: argparse.Namespace,
    compose: Callable[[Random, int], str] | None,
    sharing: float,
    rate_ppm: int = TINY.dummies.rate_ppm,
) -> None:
    """Simulate until there are enough dummies, and attack both views."""
    relay, users = Relay(Random(given.seed), compose, sharing, rate_ppm), Users(Random(given.seed + 1))
    sent: list[Sent] = []
    dummies = 0
    for one in relay.run(users):
        sent.append(one)
        dummies += one.is_dummy
        if dummies == given.dummies:
            break
    for view in (ONE, ALL):
        show(name, view, balance(build_records(sent, view), Random(given.seed)), given.seed)


def build_records(sent: list[Sent], view: str) -> Records:
    """Everything that a view tells of each request."""
    groups: dict[int, list[Sent]] = defaultdict(list)
    for one in sent:
        groups[one.executor if view == ONE else 0].append(one)
    found: list[tuple[float, str, list[float], int]] = []
    for group in groups.values():
        seen: set[str] = set()
        for before, one, after in zip([group[0], *group], group, [*group[1:], group[-1]], strict=False):
            found.append((one.time, one.text, describe(before, one, after, seen), int(one.is_dummy)))
            seen.add(one.text)
    found.sort(key=lambda item: item[0])
    numbers = np.array([item[2] for item in found], dtype=np.float32)
    return Records([item[1] for item in found], numbers, np.array([item[3] for item in found]))


def describe(before: Sent, one: Sent, after: Sent, seen: set[str]) -> list[float]:
    """The numbers of one request: size, price, times, account age, sampler fields, place in its session."""
    request = one.request
    return [
        math.log1p(len(one.text)),
        one.prompt_tokens,
        compute_task_cost(one.prompt_tokens, request.max_tokens, TINY.unit_price) / 1e9,
        math.log(1e-3 + one.time - before.time),
        math.log(1e-3 + after.time - one.time),
        one.time,
        one.time - one.opened_at,
        one.index,
        one.index - before.index if one.session == before.session else -1,
        after.index - one.index if one.session == after.session else -1,
        request.temperature_ppm,
        request.top_p_ppm,
        request.max_tokens,
        request.user_seed is not None,
        request.top_logprobs is not None,
        isinstance(request.prompt, ChatPrompt),
        one.text in seen,
    ]


def balance(records: Records, random: Random) -> Records:
    """All dummies and as many of the rest, so drawn that each stretch of time has both."""
    rows = [int(row) for row in np.flatnonzero(records.labels)]
    others = [int(row) for row in np.flatnonzero(records.labels == 0) if rows[0] <= row <= rows[-1]]
    return records.pick(np.array(sorted([*rows, *random.sample(others, len(rows))])))


def show(name: str, view: str, records: Records, seed: int) -> None:
    """Train on the first half, test on the second; print one line."""
    began, half = time.process_time(), len(records.labels) // 2
    rows = np.arange(len(records.labels))
    train = rows[:half]
    held = balance_rows(records.labels, rows[half:])
    fifth = train[np.arange(half) % 5 == 0]
    rest = train[np.arange(half) % 5 != 0]
    scores: dict[str, tuple[float, float]] = {}
    for kind, fit in (("n-grams", fit_grams), ("trees", fit_trees), ("both", fit_both)):
        predict = fit(records.pick(rest), seed)
        scores[kind] = (
            accuracy(predict(records.pick(fifth)), records.labels[fifth]),
            accuracy(predict(records.pick(held)), records.labels[held]),
        )
    best = max(scores, key=lambda kind: scores[kind][0])
    low, high = compute_interval(scores[best][1], len(held))
    told = ", ".join(f"{kind} {100 * test:.1f}" for kind, (_, test) in scores.items())
    sys.stdout.write(
        f"{name:22} {view:14} best {best:8} {100 * scores[best][1]:.1f} % ({100 * low:.1f} to {100 * high:.1f}) "
        f"on {len(held)} held out; {told}; {time.process_time() - began:.0f} s CPU\n"
    )
    sys.stdout.flush()


def balance_rows(labels: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many of each label."""
    ones, zeros = rows[labels[rows] == 1], rows[labels[rows] == 0]
    count = min(len(ones), len(zeros))
    return np.sort(np.concatenate([ones[:count], zeros[:count]]))


def accuracy(scores: Floats, labels: NDArray[np.int64]) -> float:
    """Share that a threshold of 0 gets right."""
    return float(((scores > 0) == (labels == 1)).mean())


def compute_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    width = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - width, middle + width


def hash_grams(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Hashed letter n-grams of all texts, end to end, and where each begins."""
    bags, starts, at = [], [], 0
    for text in texts:
        data = np.frombuffer(text[:MAX_CHARS].encode()[: 2 * MAX_CHARS] or b" ", dtype=np.uint8).astype(np.uint64)
        parts = []
        for size in GRAMS:
            value = np.full(max(0, len(data) - size + 1), 1_469_598_103_934_665_603 + size, dtype=np.uint64)
            for shift in range(size):
                value = (value ^ data[shift : shift + len(value)]) * np.uint64(1_099_511_628_211)
            parts.append((value >> np.uint64(24)) % np.uint64(BUCKETS))
        bag = np.unique(np.concatenate(parts)).astype(np.int64)
        bags.append(bag)
        starts.append(at)
        at += len(bag)
    return torch.from_numpy(np.concatenate(bags)), torch.tensor(starts)


class GramModel(nn.Module):
    """Logistic regression on n-grams; with numbers, a small network on top of both."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(BUCKETS, 1 if not numbers else 8, mode="mean")
        nn.init.zeros_(self.bag.weight) if not numbers else nn.init.normal_(self.bag.weight, std=0.05)
        self.bias = nn.Parameter(torch.zeros(1))
        self.top = nn.Sequential(nn.Linear(8 + numbers, 32), nn.ReLU(), nn.Linear(32, 1)) if numbers else None

    def forward(self, grams: Tensor, starts: Tensor, numbers: Tensor) -> Tensor:
        bag = self.bag(grams, starts)
        if self.top is None:
            plain: Tensor = 10 * bag[:, 0] + self.bias
            return plain
        found: Tensor = self.top(torch.cat([bag, numbers], dim=1))[:, 0]
        return found


def fit_grams(records: Records, seed: int) -> Callable[[Records], Floats]:
    return _fit_network(records, seed, use_numbers=False)


def fit_both(records: Records, seed: int) -> Callable[[Records], Floats]:
    return _fit_network(records, seed, use_numbers=True)


def _fit_network(records: Records, seed: int, *, use_numbers: bool) -> Callable[[Records], Floats]:
    torch.manual_seed(seed)
    middle, spread = records.numbers.mean(0), records.numbers.std(0) + 1e-6

    def prepare(found: Records) -> tuple[Tensor, Tensor, Tensor]:
        return *hash_grams(found.texts), torch.from_numpy((found.numbers - middle) / spread)

    grams, starts, numbers = prepare(records)
    ends = torch.cat([starts[1:], torch.tensor([len(grams)])])
    labels = torch.from_numpy(records.labels.astype(np.float32))
    model = GramModel(numbers.shape[1] if use_numbers else 0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-5)
    for _ in range(EPOCHS):
        order = torch.randperm(len(labels))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            part = [grams[starts[row] : ends[row]] for row in rows]
            sizes = torch.tensor([0, *(len(one) for one in part[:-1])]).cumsum(0)
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(torch.cat(part), sizes, numbers[rows]), labels[rows]
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not say
            optimiser.step()

    def predict(found: Records) -> Floats:
        with torch.no_grad():
            scores: Floats = model(*prepare(found)).numpy()
        return scores

    return predict


def fit_trees(records: Records, _seed: int) -> Callable[[Records], Floats]:
    """Boosted trees of two levels on the numbers, logistic loss."""
    edges = [np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1])) for column in records.numbers.T]
    labels = records.labels.astype(np.float32)
    score = np.zeros(len(labels), dtype=np.float32)
    trees: list[tuple[tuple[int, float], list[tuple[int, float, float, float]]]] = []
    for _ in range(TREES):
        chance = 1 / (1 + np.exp(-score))
        slope, curve = labels - chance, chance * (1 - chance) + 1e-6
        feature, edge, _, _ = _split(records.numbers, edges, slope, curve)
        side = records.numbers[:, feature] > edge
        leaves = [_split(records.numbers[part], edges, slope[part], curve[part]) for part in (~side, side)]
        trees.append(((feature, edge), leaves))
        score += _apply_tree(records.numbers, trees[-1])

    def predict(found: Records) -> Floats:
        total = np.zeros(len(found.labels), dtype=np.float32)
        for tree in trees:
            total += _apply_tree(found.numbers, tree)
        return total

    return predict


def _split(numbers: Floats, edges: list[Floats], slope: Floats, curve: Floats) -> tuple[int, float, float, float]:
    """The best cut of one node, with its shrunken values below and above."""
    best = (-1.0, 0, 0.0, 0.0, 0.0)
    whole_slope, whole_curve = float(slope.sum()), float(curve.sum()) + 1
    for feature, cuts in enumerate(edges):
        places = np.searchsorted(cuts, numbers[:, feature], side="left")
        slopes = np.bincount(places, slope, len(cuts) + 1).cumsum()[:-1]
        curves = np.bincount(places, curve, len(cuts) + 1).cumsum()[:-1] + 1
        if not len(cuts):
            continue
        rest_slopes, rest_curves = whole_slope - slopes, whole_curve - curves + 2
        gains = slopes**2 / curves + rest_slopes**2 / rest_curves
        top = int(gains.argmax())
        if gains[top] > best[0]:
            below, above = slopes[top] / curves[top], rest_slopes[top] / rest_curves[top]
            best = (float(gains[top]), feature, float(cuts[top]), 0.1 * float(below), 0.1 * float(above))
    return best[1:]


def _apply_tree(numbers: Floats, tree: tuple[tuple[int, float], list[tuple[int, float, float, float]]]) -> Floats:
    (feature, edge), leaves = tree
    side = numbers[:, feature] > edge
    values = [np.where(numbers[:, f] > e, above, below) for f, e, below, above in leaves]
    return np.where(side, values[1], values[0]).astype(np.float32)


def write_prompts(path: Path, cache: Path, count: int) -> None:
    """Let the model write what a user might ask, many at once, through transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - seconds

    from paceline.models.language import prepare_model  # noqa: PLC0415

    folder = prepare_model(cache, "smollm2-135m-instruct", progress=print)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = "<|im_end|>"
    end = tokenizer.pad_token_id
    random = Random(7)
    torch.manual_seed(7)
    found: dict[str, None] = {}
    while len(found) < count:
        asks = [
            f"Write a question that somebody could ask an assistant about {random.choice(TOPICS)}." for _ in range(64)
        ]
        texts = [f"<|im_start|>user\n{ask} Write only the question.<|im_end|>\n<|im_start|>assistant\n" for ask in asks]
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        with torch.no_grad():
            replies = model.generate(
                **inputs, max_new_tokens=40, do_sample=True, temperature=1.0, pad_token_id=end, eos_token_id=end
            )
        for reply in replies[:, inputs["input_ids"].shape[1] :]:
            text = tokenizer.decode(reply, skip_special_tokens=True).strip().strip('"')
            if len(text) > 10:
                found[text] = None
        sys.stdout.write(f"{len(found)} of {count}\n")
        path.write_text(json.dumps(list(found)), "utf-8")


if __name__ == "__main__":
    main()
