"""What dummies look like: prompts, sampler fields, sizes and gaps, each resampled from what users asked of late.

Prompts come from users who said that theirs may be used again, and else from the shipped set. Of all other requests only
numbers are kept. It knows no ledger. Invariant: no prompt of a user who did not say so is ever kept or sent again, and
none goes to a node that is known to have seen it.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from random import Random, SystemRandom

import msgspec

from paceline.node.dummies.prompts import compose_prompt
from paceline.protocol.answers import (
    AnswerRequest,
    ChatPrompt,
    EmbedRequest,
    Prompt,
    Request,
    TextPrompt,
    TokenPrompt,
    Turn,
)

RECENT = 256
"""Requests whose numbers are remembered."""
MAX_SHARED = 2_048
MAX_SHARED_CHARS = 32_768
FIRST_GAP_SECONDS = 1.0
"""Taken for a gap while none is known."""
MAX_HOLD_SECONDS = 0.5
"""Longest that a user's request waits behind a dummy."""
MAX_WAIT_SECONDS = 120.0
"""Longest that a dummy waits for a quiet moment."""


@dataclass(frozen=True)
class Shape:
    """A request without its words: sampler fields as numbers, and how long its prompt was."""

    request: Request
    chars: int


@dataclass
class SharedPrompt:
    """A request whose user lets its prompt be used again, and who has seen it."""

    request: Request
    prompt_tokens: int
    seen: set[bytes] = field(default_factory=set)


@dataclass(frozen=True)
class Candidate:
    """A dummy that may be sent."""

    request: Request
    prompt_tokens: int
    source: SharedPrompt | None = None

    def is_new_to(self, executor: bytes) -> bool:
        """True unless this node saw the prompt from its user."""
        return self.source is None or executor not in self.source.seen


class Traffic:
    """What users asked of one relay of late. `measure` tells a prompt's tokens and how many the model takes, if it can."""

    def __init__(
        self,
        measure: Callable[[Prompt], tuple[int, int] | None],
        *,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        compose: Callable[[Random, int], str] = compose_prompt,
    ) -> None:
        self._measure = measure
        self._random = random or SystemRandom()
        self._clock = clock
        self._compose_text = compose
        self._shapes: deque[Shape] = deque(maxlen=RECENT)
        self._gaps: deque[float] = deque(maxlen=RECENT)
        self._last: float | None = None
        self._shared: OrderedDict[Prompt, SharedPrompt] = OrderedDict()

    @property
    def shared(self) -> list[SharedPrompt]:
        """Prompts that users lent, the latest last."""
        return list(self._shared.values())

    def note(self, request: Request, prompt_tokens: int, *, shares: bool) -> SharedPrompt | None:
        """A user's request arrives; the kept prompt when its user shares it."""
        now = self._clock()
        if self._last is not None:
            self._gaps.append(now - self._last)
        self._last = now
        chars = _count_chars(request.prompt)
        self._shapes.append(Shape(_strip(request), chars))
        if not shares or chars > MAX_SHARED_CHARS:
            return None
        # Asked again, it is one prompt: who has seen it has seen it.
        kept = self._shared.setdefault(request.prompt, SharedPrompt(request, prompt_tokens))
        self._shared.move_to_end(request.prompt)
        if len(self._shared) > MAX_SHARED:
            self._shared.popitem(last=False)
        return kept

    def sample_hold_seconds(self) -> float:
        """How long a user's request follows behind a dummy."""
        return min(MAX_HOLD_SECONDS, self._random.choice(self._gaps) if self._gaps else 0.0)

    def sample_wait_seconds(self) -> float:
        """How long after a request a dummy goes out, unless a user comes first.

        A gap counts the more, the rarer it outlasts the next arrival: so the gaps of the dummies that do go out are
        spread like those of users.
        """
        ordered = sorted(self._gaps) or [FIRST_GAP_SECONDS]
        weights = [1 / (len(ordered) - rank) for rank in range(len(ordered))]
        return min(MAX_WAIT_SECONDS, self._random.choices(ordered, weights)[0])

    def sample(self, count: int) -> list[Candidate]:
        """Dummies for a session: shared prompts as far as there are any, the rest composed; none before any traffic."""
        taken = self._random.sample(self.shared, min(count, len(self._shared)))
        found = [Candidate(self._renew(kept.request), kept.prompt_tokens, kept) for kept in taken]
        composed = (self._compose() for _ in range(count - len(found)))
        found += [candidate for candidate in composed if candidate is not None]
        self._random.shuffle(found)
        return found

    def choose(self, candidates: Collection[tuple[int, Candidate]], executor: bytes) -> tuple[int, Candidate] | None:
        """One that this executor has not seen, a user's before a composed one."""
        new = [item for item in candidates if item[1].is_new_to(executor)]
        shared = [item for item in new if item[1].source is not None]
        return self._random.choice(shared or new) if new else None

    def _renew(self, request: Request) -> Request:
        """The same request with another seed of its own, when it has one: nobody asks twice for one repeatable answer."""
        if isinstance(request, AnswerRequest) and request.user_seed is not None:
            return msgspec.structs.replace(request, user_seed=self._random.getrandbits(31))
        return request

    def _compose(self) -> Candidate | None:
        if not self._shapes:
            return None
        shape = self._random.choice(self._shapes)
        text = self._compose_text(self._random, shape.chars)
        is_chat = isinstance(shape.request, AnswerRequest) and isinstance(shape.request.prompt, ChatPrompt)
        prompt: Prompt = ChatPrompt((Turn("user", text),)) if is_chat else TextPrompt(text)
        request = _put_prompt(shape.request, prompt)
        measured = self._measure(prompt)
        if measured is None:
            return None
        prompt_tokens, context_tokens = measured
        if isinstance(request, AnswerRequest) and prompt_tokens + request.max_tokens > context_tokens:
            # As planning does for users who name no limit.
            request = msgspec.structs.replace(request, max_tokens=max(1, context_tokens - prompt_tokens))
        return Candidate(self._renew(request), prompt_tokens)


def _put_prompt(request: Request, prompt: Prompt) -> Request:
    if isinstance(request, EmbedRequest):
        assert isinstance(prompt, TextPrompt)
        return EmbedRequest(model=request.model, prompt=prompt)
    return msgspec.structs.replace(request, prompt=prompt)


def _strip(request: Request) -> Request:
    """The numbers of a request; whatever could hold a user's words goes."""
    if isinstance(request, EmbedRequest):
        return EmbedRequest(model=request.model, prompt=TextPrompt("-"))
    blank: Prompt = ChatPrompt((Turn("user", ""),)) if isinstance(request.prompt, ChatPrompt) else TextPrompt("-")
    seed = None if request.user_seed is None else 0
    return msgspec.structs.replace(request, prompt=blank, bias=(), stop=(), grammar=None, choice=0, user_seed=seed)


def _count_chars(prompt: Prompt) -> int:
    if isinstance(prompt, ChatPrompt):
        return sum(len(turn.content) for turn in prompt.turns)
    # Four letters a token is what English text comes to.
    return 4 * len(prompt.token_ids) if isinstance(prompt, TokenPrompt) else len(prompt.text)
