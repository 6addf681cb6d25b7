"""Marked tasks: what an idle node is asked, put together from public chance so that nobody chooses his own work.

Ledger, executor and checkers derive the same request from the same chance. It refuses to know who is asked and when.
Invariant: one chance and one list of models lead to exactly one request, on every machine.
Source: decision 031.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from paceline.base.draws import derive_seed, generate_words
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Turn
from paceline.protocol.prompt_words import ASIDES, LIMITS, REASONS, TASKS, TOPICS

MAX_ASIDES = 4
TEMPERATURES_PPM = (0, 300_000, 700_000, 1_000_000)
TOP_PS_PPM = (800_000, 900_000, 950_000, 1_000_000)
TOP_KS = (0, 0, 40, 100)

T = TypeVar("T")


def derive_request(chance: bytes, models: Sequence[str], most_tokens: int) -> AnswerRequest:
    """The one request that a chance stands for: one of the models, a composed prompt, sampler and length."""
    words = generate_words(derive_seed(chance, "marked-request"))
    least = max(1, most_tokens // 4)
    return AnswerRequest(
        model=_pick(words, models),
        prompt=ChatPrompt((Turn("user", _compose(words)),)),
        temperature_ppm=_pick(words, TEMPERATURES_PPM),
        top_k=_pick(words, TOP_KS),
        top_p_ppm=_pick(words, TOP_PS_PPM),
        max_tokens=least + next(words) % (most_tokens - least + 1),
        stop=(),
        user_seed=None,
    )


def _compose(words: Iterator[int]) -> str:
    parts = [f"{_pick(words, TASKS).format(_pick(words, TOPICS))} {_pick(words, LIMITS)}."]
    parts.append(f"I ask because {_pick(words, REASONS)}.")
    parts += [_pick(words, ASIDES).format(_pick(words, TOPICS)) for _ in range(next(words) % (MAX_ASIDES + 1))]
    return " ".join(parts)


def _pick(words: Iterator[int], choices: Sequence[T]) -> T:
    return choices[next(words) % len(choices)]
