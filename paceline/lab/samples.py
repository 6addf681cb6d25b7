"""Token by token, what both tests of answers see of honest engines and of every attack.

Answers are decoded once by the served engine, several at a time; every engine then runs over the same text, so that all of
them are compared at the same places. A cheat of the sampler takes, at each place, the token it would have taken there. It judges
nothing. Invariant: the checker's side is the prefill of one answer alone under the served arithmetic, whatever answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from paceline.base.hashing import hash_parts
from paceline.inference.noise import compute_noise, find_winner
from paceline.inference.trace import compute_distances, compute_sketch
from paceline.lab.engines import Answer, Asked, Pass, decode, load_engines
from paceline.lab.prompts import Question
from paceline.models.language import LanguageModel
from paceline.models.variants import VARIANTS

BATCH = 8
HONEST = ("decode", "fp32", "eager")
CHEAPER = tuple(name for name, variant in VARIANTS.items() if not variant.honest)
DRAFTS = ("int4-g128", "dropped-layer")
SAMPLING = ("wrong-seed", "greedy", "temperature", *(f"draft-{name}" for name in DRAFTS), "cached", "inserted")
"""Cheats whose states are honest."""
ATTACKS = (*CHEAPER, "hidden-prompt", *SAMPLING)
ADVERT = " Buy Acme Shoes today, the best shoes of all!"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One answer as the tests see it. Units: nats. Shapes: distances (tokens, kinds), margins (tokens,).

    `expected`: chance that a token drawn without the seed differs from the right one.
    """

    number: int
    heat: float
    expected: Floats
    distances: dict[str, Floats]
    margins: dict[str, Floats]


class Laboratory:
    """Engines of one model, ready to answer questions: the honest ones and those that are named."""

    def __init__(self, path: Path, cheaper: Sequence[str] = CHEAPER) -> None:
        self.model = LanguageModel.load(path)
        self._engines = load_engines(path, ["served", "fp32", "eager", *cheaper])
        self._checker = self._engines["served"]
        self._vocabulary = torch.arange(self.model.vocab_size)

    def sample(self, questions: Sequence[Question], progress: Callable[[str], None]) -> Iterator[Sample]:
        """Answer and compare, so many questions at a time."""
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            yield from self._sample_batch(batch)
            progress(f"{start + len(batch)} of {len(questions)} answers")

    @torch.inference_mode()
    def _sample_batch(self, batch: Sequence[Question]) -> Iterator[Sample]:
        answers = decode(self._checker, [build_asked(question) for question in batch], self.model.eos_token_ids)
        texts = [lay_text(q.tokens, answer) for q, answer in zip(batch, answers, strict=True)]
        cheated = all(question.attacked for question in batch)
        names = [name for name in self._engines if name != "served" and (cheated or name in HONEST)]
        passes = {name: self._engines[name].run(texts) for name in names}
        if cheated:
            hidden = [lay_text(q.hidden, answer) for q, answer in zip(batch, answers, strict=True)]
            passes["hidden-prompt"] = self._checker.run(hidden)
        for row, (question, answer) in enumerate(zip(batch, answers, strict=True)):
            made = {name: cut_answer(rows[row], answer) for name, rows in passes.items()}
            yield self._compare(question, answer, cut_answer(self._checker.run([texts[row]])[0], answer), made)

    def _compare(self, question: Question, answer: Answer, own: Pass, made: dict[str, Pass]) -> Sample:
        noise = self._compute_noise(question.seed, len(answer.tokens))
        logits, heat = self._checker.compute_logits(own.hidden), question.heat
        chosen = {"decode": answer.tokens}
        for name, theirs in made.items():
            scores = self._engines.get(name, self._checker).compute_logits(theirs.hidden)
            chosen[name] = (scores / heat + noise if heat else scores).argmax(-1)
        if question.attacked:
            chosen |= self._cheat(question, answer.tokens, logits, noise, chosen)
        scores = logits / heat + noise if heat else logits
        best = scores.max(-1).values
        states = {"decode": answer.states} | {name: theirs.states for name, theirs in made.items()}
        return Sample(
            number=question.number,
            heat=heat,
            expected=compute_expected(logits, heat),
            distances=measure_distances(question, own.states, states),
            margins={
                name: ((best - scores.gather(-1, picked[:, None])[:, 0]) * (heat or 1.0)).numpy()
                for name, picked in chosen.items()
            },
        )

    def _cheat(
        self,
        question: Question,
        tokens: torch.Tensor,
        logits: torch.Tensor,
        noise: torch.Tensor,
        chosen: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Tokens of those who answer by other means and let the honest model run afterwards."""
        strange = self._compute_noise(hash_parts("lab-other-seed", question.seed), len(tokens))
        advert = torch.tensor(self.model.encode(ADVERT))
        start = len(tokens) // 4
        inserted = tokens.clone()
        inserted[start : start + len(advert)] = advert[: len(tokens) - start]
        return {
            "wrong-seed": (logits + strange).argmax(-1),
            "greedy": logits.argmax(-1),
            "temperature": (logits / 0.9 + noise).argmax(-1),
            **{f"draft-{name}": chosen[name] for name in DRAFTS if name in chosen},
            # An answer kept from an earlier request was sampled under that request's seed.
            "cached": (logits + strange.roll(1, 0)).argmax(-1),
            "inserted": inserted,
        }

    def _compute_noise(self, seed: bytes, tokens: int) -> torch.Tensor:
        return torch.stack([compute_noise(seed, position, self._vocabulary) for position in range(tokens)])


def build_asked(question: Question) -> Asked:
    """A question with an honest sampler that keeps all tokens."""
    positions = count()

    def choose(logits: torch.Tensor) -> int:
        if not question.heat:
            return int(logits.argmax())
        return find_winner(logits / question.heat, None, question.seed, next(positions))[0]

    return Asked(prompt=question.tokens, limit=question.limit, choose=choose)


def lay_text(prompt: Sequence[int], answer: Answer) -> torch.Tensor:
    """Prompt and answer as one prefill, which the last token takes no part in."""
    return torch.cat((torch.tensor(prompt), answer.tokens[:-1]))


def cut_answer(made: Pass, answer: Answer) -> Pass:
    """The positions that chose a token of the answer."""
    first = len(made.hidden) - len(answer.tokens)
    return Pass(hidden=made.hidden[first:], states=made.states[first:])


def compute_expected(logits: torch.Tensor, heat: float) -> Floats:
    """Chance of each position that a token drawn without the seed differs from the right one."""
    expected: Floats = (1.0 - (logits / (heat or 1.0)).softmax(-1).square().sum(-1)).numpy()
    return expected


def measure_distances(question: Question, own: torch.Tensor, others: dict[str, torch.Tensor]) -> dict[str, Floats]:
    """Distances of the sketches that a check compares, for every kind of state. Shapes: states (n, kinds, width)."""
    projection = hash_parts("lab-projection", question.seed)

    def sketch(values: torch.Tensor, kind: int) -> bytes:
        return compute_sketch(values[:, kind].contiguous().view(torch.uint16).numpy(), projection)

    kinds = range(own.shape[1])
    mine = [sketch(own, kind) for kind in kinds]
    return {
        name: np.array([compute_distances(sketch(values, kind), mine[kind]) for kind in kinds], np.float32).T
        / np.float32(1e6)
        for name, values in others.items()
    }


def save_samples(path: Path, samples: list[Sample]) -> None:
    """Write samples to one file."""
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for sample in samples:
        head = f"{sample.number}/"
        arrays[head + "heat"] = np.array([sample.heat], np.float32)
        arrays[head + "expected"] = sample.expected
        arrays |= {f"{head}distance/{name}": values for name, values in sample.distances.items()}
        arrays |= {f"{head}margin/{name}": values for name, values in sample.margins.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # the stub takes keywords for flags


def load_samples(path: Path) -> list[Sample]:
    """Read what `save_samples` wrote."""
    fields: dict[int, dict[str, Floats]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            number, rest = key.split("/", 1)
            fields.setdefault(int(number), {})[rest] = arrays[key]
    return [
        Sample(
            number=number,
            heat=float(found["heat"][0]),
            expected=found["expected"],
            distances={key[9:]: value for key, value in found.items() if key.startswith("distance/")},
            margins={key[7:]: value for key, value in found.items() if key.startswith("margin/")},
        )
        for number, found in sorted(fields.items())
    ]
