"""Who hears whom in a round, what each message weighs, and how many bytes each trainer sends and receives.

It refuses to know clocks and sockets: the simulator and real processes both call these functions. Invariant: from the
same messages every trainer computes the same bits, in the order of trainers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from paceline.base.draws import draw_below
from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.training.codecs.codec import Codec, Layout, make_flat_layout
from paceline.training.methods.combine import Combine


@dataclass(frozen=True)
class Traffic:
    """Bytes of one trainer in one round."""

    sent: int
    received: int


class Exchange(ABC):
    """A frozen dataclass. `whole`: every message travels as one encoding, so codecs that need shapes or memory fit."""

    whole: ClassVar[bool] = True
    everyone: ClassVar[bool] = False
    """True when every member hears every other."""
    mutual: ClassVar[bool] = False
    """True when those whom a trainer hears are those who hear it."""

    @abstractmethod
    def get_sources(self, trainer: int, members: Sequence[int], key: bytes) -> dict[int, float]:
        """Whose messages a trainer combines, itself included, with the share of each."""

    def count_traffic(self, trainer: int, members: Sequence[int], key: bytes, sizes: Mapping[int, int]) -> Traffic:
        """Bytes of a whole-message round; `sizes` holds the length of each message that arrived, and of its own."""
        sources = self.get_sources(trainer, members, key)
        if self.mutual:
            listeners = len(sources) - 1
        else:
            others = [member for member in members if member != trainer]
            listeners = sum(1 for member in others if trainer in self.get_sources(member, members, key))
        return Traffic(
            sent=sizes.get(trainer, 0) * self.count_copies(listeners),
            received=sum(sizes.get(source, 0) for source in sources if source != trainer),
        )

    def count_copies(self, listeners: int) -> int:
        """How often a trainer uploads its message for so many listeners."""
        return listeners


@dataclass(frozen=True)
class AllReduce(Exchange):
    """Everyone's mean, in shards: each trainer sends every other its shard, adds up its own, and sends the sum round.

    Costs a ring's bytes, 2 (N - 1) / N of the vector, but the order of additions is that of the trainers.
    """

    whole: ClassVar[bool] = False
    everyone: ClassVar[bool] = True

    def get_sources(self, trainer: int, members: Sequence[int], key: bytes) -> dict[int, float]:
        return dict.fromkeys(members, 1.0)


@dataclass(frozen=True, kw_only=True)
class AllGather(Exchange):
    """Everyone hears everyone. With `relay` a trainer uploads once (object store, gossip tree), else to each peer."""

    relay: bool = False
    everyone: ClassVar[bool] = True

    def get_sources(self, trainer: int, members: Sequence[int], key: bytes) -> dict[int, float]:
        return dict.fromkeys(members, 1.0)

    def count_traffic(self, trainer: int, members: Sequence[int], key: bytes, sizes: Mapping[int, int]) -> Traffic:
        own = sizes.get(trainer, 0)
        listeners = len(members) - 1
        return Traffic(sent=own * self.count_copies(listeners), received=sum(sizes.values()) - own)

    def count_copies(self, listeners: int) -> int:
        return min(1, listeners) if self.relay else listeners


@dataclass(frozen=True)
class Pairs(Exchange):
    """Random pairs, drawn anew each round from the shared key; with an odd number one stays alone."""

    mutual: ClassVar[bool] = True

    def get_sources(self, trainer: int, members: Sequence[int], key: bytes) -> dict[int, float]:
        order = shuffle(tuple(members), key)
        place = order.index(trainer)
        partner = place ^ 1
        found = [trainer] if partner >= len(order) else sorted((trainer, order[partner]))
        return dict.fromkeys(found, 1.0)


@dataclass(frozen=True, kw_only=True)
class Neighbours(Exchange):
    """A fixed graph with Metropolis shares, so that the mean over all trainers is kept.

    `ring`; `expander`: the union of `degree` / 2 random cycles, drawn once; `small-world`: a ring lattice of `degree`
    whose edges are rewired with probability `rewire`. Source of shares: Xiao and Boyd 2004.
    """

    graph: str = "ring"
    degree: int = 4
    rewire: float = 0.1
    mutual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.graph not in {"ring", "expander", "small-world"}:
            raise ConfigError(f"exchange.graph {self.graph!r}: choose ring, expander or small-world")
        if self.graph != "ring" and (self.degree < 2 or self.degree % 2):
            raise ConfigError(f"exchange.degree {self.degree}: must be even and at least 2")
        if not 0 <= self.rewire <= 1:
            raise ConfigError(f"exchange.rewire {self.rewire}: must be within 0 and 1")

    def get_sources(self, trainer: int, members: Sequence[int], key: bytes) -> dict[int, float]:
        edges = build_graph(self, tuple(members))
        near = edges[trainer]
        shares = {other: 1 / (1 + max(len(near), len(edges[other]))) for other in near}
        shares[trainer] = 1 - sum(shares[other] for other in sorted(shares))
        return dict(sorted(shares.items()))


@dataclass(frozen=True, kw_only=True)
class Syncer(Exchange):
    """A trainer pushes to a synchroniser and gets the anchor back; nobody waits for all others.

    It merges once `quorum` trainers have pushed (1: every push at once; 0: everyone) and `grace_seconds` have passed
    since, by the tokens that each has processed when `by_tokens` is set.
    """

    quorum: int = 1
    grace_seconds: float = 0.0
    by_tokens: bool = False

    def __post_init__(self) -> None:
        if self.quorum < 0:
            raise ConfigError(f"exchange.quorum {self.quorum}: must not be negative; 0 waits for everyone")
        if self.grace_seconds < 0:
            raise ConfigError(f"exchange.grace_seconds {self.grace_seconds}: must not be negative")

    @property
    def merges_each(self) -> bool:
        """True when every push is an arrival of its own, also those of one moment."""
        return self.quorum == 1 and self.grace_seconds == 0

    def get_sources(self, trainer: int, members: Sequence[int], key: bytes) -> dict[int, float]:
        return {trainer: 1.0}


def combine_messages(
    combine: Combine, decoded: Mapping[int, Tensor], shares: Mapping[int, float], weights: Mapping[int, float]
) -> Tensor:
    """What a trainer makes of the messages that arrived, in the order of trainers; shares of absent ones fall away."""
    present = sorted(trainer for trainer in shares if trainer in decoded)
    # One after the other: many whole vectors at once would be the largest thing in memory.
    updates = (decoded[trainer] for trainer in present)
    return combine.apply(updates, [shares[trainer] * weights[trainer] for trainer in present])


def split_shards(size: int, count: int) -> list[slice]:
    """Nearly equal stretches of a vector, the longer ones first."""
    short, longer = divmod(size, count)
    ends = [place * short + min(place, longer) for place in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


@dataclass(frozen=True)
class ShardCoding:
    """How one all-reduce cuts and codes a vector among its members."""

    codec: Codec
    layout: Layout
    members: tuple[int, ...]
    key: bytes

    @property
    def shards(self) -> list[slice]:
        """One stretch for each member, in order."""
        return split_shards(self.layout.size, len(self.members))

    def encode(self, values: Tensor) -> list[Tensor]:
        """One message for each member: its shard."""
        return [self.codec.encode(values[shard], self._get_layout(shard), self.key) for shard in self.shards]

    def decode(self, payload: Tensor, place: int) -> Tensor:
        """The shard of the member at a place."""
        return self.codec.decode(payload, self._get_layout(self.shards[place]), self.key)

    def reduce(
        self, place: int, received: Mapping[int, Tensor], weights: Mapping[int, float], combine: Combine
    ) -> Tensor:
        """What the member at a place sends round: the combination of its shard over the trainers that sent one."""
        decoded = {trainer: self.decode(payload, place) for trainer, payload in received.items()}
        mean = combine_messages(combine, decoded, dict.fromkeys(self.members, 1.0), weights)
        return self.codec.encode(mean, self._get_layout(self.shards[place]), self.key)

    def join(self, reduced: Sequence[Tensor]) -> Tensor:
        """The whole vector out of every member's reduced shard."""
        return torch.cat([self.decode(payload, place) for place, payload in enumerate(reduced)])

    def list_sizes(self) -> list[int]:
        """Bytes of each member's shard; shards have one of two lengths."""
        short, longer = divmod(self.layout.size, len(self.members))
        kinds = [self.codec.count_bytes(make_flat_layout(length, self.layout.dtype)) for length in (short, short + 1)]
        return [kinds[1]] * longer + [kinds[0]] * (len(self.members) - longer)

    def count_traffic(self, trainer: int, senders: Collection[int], arrived: Collection[int]) -> Traffic:
        """Exact bytes, both directions, when these members had something to send and that of those arrived."""
        sizes = self.list_sizes()
        own = self.members.index(trainer)
        others = len(self.members) - 1
        scattered = sum(sizes) - sizes[own] if trainer in senders else 0
        heard = len(arrived) - (trainer in arrived)
        if not arrived:
            return Traffic(sent=scattered, received=0)
        return Traffic(sent=scattered + sizes[own] * others, received=sizes[own] * heard + sum(sizes) - sizes[own])

    def _get_layout(self, shard: slice) -> Layout:
        return make_flat_layout(shard.stop - shard.start, self.layout.dtype)


@lru_cache(maxsize=64)
def shuffle(items: tuple[int, ...], key: bytes) -> tuple[int, ...]:
    """A uniformly drawn order, the same for everyone who knows the key."""
    order = sorted(items)
    for last in range(len(order) - 1, 0, -1):
        chosen = draw_below(hash_parts("training-shuffle", key, last.to_bytes(4, "little")), last + 1)
        order[last], order[chosen] = order[chosen], order[last]
    return tuple(order)


@lru_cache(maxsize=16)
def build_graph(exchange: Neighbours, members: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Neighbours of each member; the graph follows from the members alone."""
    edges: dict[int, set[int]] = {member: set() for member in members}
    if exchange.graph == "expander":
        for cycle in range(exchange.degree // 2):
            _add_cycle(edges, shuffle(members, b"expander" + cycle.to_bytes(4, "little")), 1)
    elif exchange.graph == "small-world":
        for reach in range(1, exchange.degree // 2 + 1):
            _add_cycle(edges, tuple(sorted(members)), reach)
        _rewire(edges, exchange.rewire)
    else:
        _add_cycle(edges, tuple(sorted(members)), 1)
    return {member: tuple(sorted(near)) for member, near in edges.items()}


def _add_cycle(edges: dict[int, set[int]], order: tuple[int, ...], reach: int) -> None:
    for place, member in enumerate(order):
        other = order[(place + reach) % len(order)]
        if other != member:
            edges[member].add(other)
            edges[other].add(member)


def _rewire(edges: dict[int, set[int]], probability: float) -> None:
    members = sorted(edges)
    lattice = [(one, other) for one in members for other in sorted(edges[one]) if one < other]
    for one, other in lattice:
        seed = hash_parts("small-world", one.to_bytes(4, "little"), other.to_bytes(4, "little"))
        free = [member for member in members if member != one and member not in edges[one]]
        # The last link of a trainer stays, so that nobody is cut off.
        if free and len(edges[other]) > 1 and draw_below(seed, 1_000_000) < probability * 1_000_000:
            target = free[draw_below(hash_parts("small-world-target", seed), len(free))]
            edges[one].discard(other)
            edges[other].discard(one)
            edges[one].add(target)
            edges[target].add(one)
