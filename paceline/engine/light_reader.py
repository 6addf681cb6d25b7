"""Reads of the ledger's state by somebody who has none of it: every value asked from a node and proven before it is read.

Knows no socket and no clock: providers, the time and the pause between two attempts are arguments. The ledger's own
reading functions run on what was proven. Invariant: an answer rests on one state alone, whose app hash stands in a
header that follows from the trusted one and is not older than allowed.
Source: decision 015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from paceline.base.errors import ConfigError, InvalidBlock, TransportError
from paceline.engine.light import LightClient, LightProvider, Verified
from paceline.engine.light_blocks import LightBlock
from paceline.engine.light_query import Evidence, StateProvider
from paceline.engine.light_state import verify_state_value
from paceline.ledger.state import State

ATTEMPTS: Final = 8
"""How often the values of one answer are asked again because a block came in between."""
BLOCKS_AHEAD: Final = 3
"""A height so far above the latest one is about to come."""
_NANOSECONDS_PER_MILLISECOND: Final = 1_000_000

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ReadRules:
    """How old a state may be, and who tells the time.

    The age is counted from the time in the header after the state. Without a limit a node could pass off an old state
    as the present one: all of its proofs hold.
    """

    max_age_seconds: int
    get_unix_milliseconds: Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often to ask again for a block that is about to come, and what to do in between."""

    attempts: int
    pause: Callable[[], None]


@dataclass(frozen=True)
class Proven(Generic[T]):
    """An answer as of a height."""

    value: T
    height: int


class PatientProvider:
    """A provider that waits for the blocks right after its latest; everything else it passes on at once."""

    def __init__(self, provider: LightProvider, patience: Patience) -> None:
        self._provider = provider
        self._patience = patience

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._provider.name

    def get_light_block(self, height: int | None) -> LightBlock:
        """As `LightProvider`."""
        for _ in range(self._patience.attempts):
            try:
                return self._provider.get_light_block(height)
            except TransportError:
                # Who is silent, has forgotten the height or is far from it is not waited for.
                if height is None or not 0 <= height - self._provider.get_light_block(None).height <= BLOCKS_AHEAD:
                    raise
            self._patience.pause()
        return self._provider.get_light_block(height)


class StateReader:
    """Asks one provider for values and believes only what a light client's headers prove."""

    def __init__(self, client: LightClient, provider: StateProvider, rules: ReadRules) -> None:
        self._client = client
        self._provider = provider
        self._rules = rules
        self.verified: list[Verified] = []
        """Headers relied on so far, in order."""

    @property
    def name(self) -> str:
        """Who is asked."""
        return self._provider.name

    def read(self, question: Callable[[State], T]) -> Proven[T]:
        """What a reading function of the ledger finds in the provider's last state.

        The question is asked again as more of its keys are known; until then they read as absent, and it must bear that.
        It may not iterate: a range is not proven by proofs of its keys.
        Errors: InvalidBlock state-proof, stale-state, malformed, and those of the light client; TransportError when the
        provider does not answer, or moves on faster than it does; ConfigError when the values are of other rules.
        """
        keys: list[bytes] = []
        height, values = 0, dict[bytes, bytes | None]()
        while True:
            store = _ProvenStore(values)
            answer = _ask(question, State(store, height=height))
            if not store.missing:
                return Proven(answer, height)
            keys += store.missing
            height, values = self._prove(keys)

    def _prove(self, keys: Sequence[bytes]) -> tuple[int, dict[bytes, bytes | None]]:
        height, found = self._collect(keys)
        header = self._verify_header(height).block.header
        for key, evidence in found.items():
            verify_state_value(header, key, evidence.value, evidence.proof)
        return height, {key: evidence.value for key, evidence in found.items()}

    def _collect(self, keys: Sequence[bytes]) -> tuple[int, dict[bytes, Evidence]]:
        for _ in range(ATTEMPTS):
            found = {key: self._provider.get_evidence(key) for key in keys}
            heights = sorted({evidence.height for evidence in found.values()})
            if len(heights) == 1:
                return heights[0], found
        raise TransportError(f"{self._provider.name} moves on while it is asked for {len(keys)} values; try again")

    def _verify_header(self, height: int) -> Verified:
        trusted = self._client.trusted.height
        if height + 1 < trusted:
            raise InvalidBlock(
                "stale-state",
                f"{self._provider.name} answers from height {height}; header {trusted} is trusted already",
            )
        # The app hash after a height stands in the next header.
        verified = self._client.verify_height(height + 1, self._rules.get_unix_milliseconds())
        age = (
            self._rules.get_unix_milliseconds() - verified.block.header.unix_nanoseconds // _NANOSECONDS_PER_MILLISECOND
        )
        if age > self._rules.max_age_seconds * 1_000:
            raise InvalidBlock(
                "stale-state",
                f"{self._provider.name} answers from height {height}, {age // 1_000} s ago; "
                f"at most {self._rules.max_age_seconds} s are allowed",
            )
        self.verified.append(verified)
        return verified


class _ProvenStore:
    """What is proven, below the ledger's tables; notes what else was asked for."""

    def __init__(self, values: Mapping[bytes, bytes | None]) -> None:
        self._values = values
        self.missing: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        if key not in self._values and key not in self.missing:
            self.missing.append(key)
        return self._values.get(key)

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        raise AssertionError(f"no proof covers all keys under {prefix!r}")


def _ask(question: Callable[[State], T], state: State) -> T:
    try:
        return question(state)
    except msgspec.DecodeError as problem:
        raise ConfigError(
            f"this version of Paceline cannot read the network's records ({problem}): use its own"
        ) from None
