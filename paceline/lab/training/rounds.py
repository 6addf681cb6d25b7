"""Rounds under way: who has sent, whom nobody waits for any more, and what each trainer gets out of it.

It refuses to know time; the simulation says when something arrives. Invariant: a message enters a round once, and the
outcome is computed from the messages in the order of trainers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from paceline.training.codecs.quantisers import Raw
from paceline.training.methods.exchanges import AllReduce, ShardCoding, Syncer, Traffic, combine_messages
from paceline.training.methods.flat_model import FlatModel
from paceline.training.methods.outer_optimizers import State
from paceline.training.methods.replica import Outcome, Outgoing, Replica, RoundKey
from paceline.training.methods.strategy import Rule, Strategy


@dataclass
class Round:
    """One synchronous round of a rule."""

    rule: Rule
    round_key: RoundKey
    members: tuple[int, ...]
    seed: bytes
    messages: dict[int, Outgoing] = field(default_factory=dict)
    """What takes part, by trainer."""
    lost: dict[int, Outgoing] = field(default_factory=dict)
    """What was sent and did not arrive."""
    arrived: set[int] = field(default_factory=set)
    """Who is through, messages lost and withdrawn included."""
    served: set[int] = field(default_factory=set)
    listeners: dict[int, int] = field(default_factory=dict)
    """Joiners that wait for the outcome too, and who lets each in."""
    expired: bool = False
    outcome: Outcome | None = None
    """Of rounds in which everyone hears everyone."""
    finished_at: float = 0.0

    @property
    def is_for_all(self) -> bool:
        """True when all members get one outcome at one time."""
        return self.rule.exchange.everyone

    def add(self, message: Outgoing, *, lost: bool) -> None:
        """A trainer is through with this round."""
        self.arrived.add(message.trainer)
        if message.reason or self.outcome is not None:
            return
        (self.lost if lost else self.messages)[message.trainer] = message

    def list_ready(self, gone: set[int]) -> list[int]:
        """Members that have sent and now have all they need."""
        if self.is_for_all:
            complete = self.expired or all(member in self.arrived or member in gone for member in self.members)
            return sorted(self.arrived - self.served) if complete else []
        return [trainer for trainer in sorted(self.arrived - self.served) if self._has_all(trainer, gone)]

    def _has_all(self, trainer: int, gone: set[int]) -> bool:
        sources = self.rule.exchange.get_sources(trainer, self.members, self.seed)
        return self.expired or all(source in self.arrived or source in gone for source in sources)

    def compute_outcome(self, trainer: int) -> Outcome:
        """What a trainer gets; computed once where everyone gets the same."""
        if self.outcome is not None:
            return self.outcome
        shares = self.rule.exchange.get_sources(trainer, self.members, self.seed)
        messages = {source: self.messages[source] for source in shares if source in self.messages}
        if trainer in self.lost and not self.is_for_all:
            # Nobody else heard it, but a trainer knows what it has itself.
            messages[trainer] = self.lost[trainer]
        combined = self._combine(messages, shares) if messages else None
        outcome = Outcome(combined, len(messages))
        if self.is_for_all:
            self.outcome = outcome
        return outcome

    def count_traffic(self, trainer: int) -> Traffic:
        """Bytes of one trainer in this round."""
        own = {trainer: self.lost[trainer]} if trainer in self.lost else {}
        if isinstance(self.rule.exchange, AllReduce):
            coding = self._make_coding()
            return coding.count_traffic(trainer, self.messages | own, self.messages) if coding else Traffic(0, 0)
        sizes = {sender: _get_size(message) for sender, message in (self.messages | own).items()}
        return self.rule.exchange.count_traffic(trainer, self.members, self.seed, sizes)

    def _combine(self, messages: dict[int, Outgoing], shares: dict[int, float]) -> Tensor:
        weights = {trainer: message.weight for trainer, message in messages.items()}
        if not isinstance(self.rule.exchange, AllReduce):
            return combine_messages(self.rule.combine, _Decoding(self.rule, messages), shares, weights)
        values = {trainer: _get_values(message) for trainer, message in messages.items()}
        if isinstance(self.rule.codec, Raw):
            # Exact coding makes shards and whole vectors give the same bits.
            return combine_messages(self.rule.combine, values, shares, weights)
        coding = self._make_coding()
        assert coding is not None
        coded = {trainer: coding.encode(vector) for trainer, vector in values.items()}
        return coding.join(
            [
                coding.reduce(
                    place, {trainer: shards[place] for trainer, shards in coded.items()}, weights, self.rule.combine
                )
                for place in range(len(self.members))
            ]
        )

    def _make_coding(self) -> ShardCoding | None:
        layouts = [message.layout for message in (self.messages | self.lost).values()]
        return ShardCoding(self.rule.codec, layouts[0], self.members, self.seed) if layouts else None


@dataclass
class SyncerState:
    """The synchroniser of one fragment: the anchor, and the updates that wait to be merged."""

    rule: Rule
    anchor: Tensor
    state: State
    waiting: dict[int, Outgoing] = field(default_factory=dict)
    merging: bool = False
    merges: int = 0

    def is_complete(self, quorum: int, alive: Iterable[int]) -> bool:
        """True when enough trainers have pushed; nobody waits for the dead."""
        count = len(set(alive))
        return len(self.waiting) >= max(1, min(quorum or count, count))

    def merge(self) -> tuple[Outcome, dict[int, Outgoing]]:
        """Apply what waits, in the order of trainers; returns the outcome and whose pushes it answers."""
        pushed, self.waiting, self.merging = self.waiting, {}, False
        useful = {trainer: message for trainer, message in pushed.items() if message.payload is not None}
        if useful:
            weights = {trainer: message.weight for trainer, message in useful.items()}
            update = combine_messages(
                self.rule.combine, _Decoding(self.rule, useful), dict.fromkeys(useful, 1.0), weights
            )
            assert self.rule.outer is not None
            self.anchor, self.state = self.rule.outer.apply(self.anchor, self.state, update)
            self.merges += 1
        return Outcome(None, len(useful), anchor=self.anchor), pushed


def list_rounds_ahead(rounds: Iterable[Round], replica: Replica) -> list[Round]:
    """Rounds that faster trainers have opened and for which this one, and who joins from it, will still send."""
    sent = {pending.round_key for pending in replica.pending}
    open_for_it = [found for found in rounds if replica.trainer in set(found.members) - found.arrived]
    return [found for found in open_for_it if found.round_key not in sent]


def make_syncers(strategy: Strategy, model: FlatModel, params: Tensor) -> list[SyncerState]:
    """One for each fragment of a strategy that has a synchroniser; none for others."""
    if not strategy.rules or not isinstance(strategy.rules[0].exchange, Syncer):
        return []
    rule = strategy.rules[0]
    assert rule.outer is not None
    spans = [model.get_fragment(index, rule.trigger.fragments).span for index in range(rule.trigger.fragments)]
    cut = [params[span] for span in spans] if len(spans) > 1 else [params]
    return [SyncerState(rule, anchor, rule.outer.make_state(anchor)) for anchor in cut]


class _Decoding(Mapping[int, Tensor]):
    """Messages as vectors, each decoded when it is asked for and kept by nobody."""

    def __init__(self, rule: Rule, messages: Mapping[int, Outgoing]) -> None:
        self._rule, self._messages = rule, messages

    def __getitem__(self, trainer: int) -> Tensor:
        message = self._messages[trainer]
        return self._rule.codec.decode(_get_payload(message), message.layout, message.seed)

    def __contains__(self, trainer: object) -> bool:
        return trainer in self._messages

    def __iter__(self) -> Iterator[int]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)


def forget_numbers(message: Outgoing) -> Outgoing:
    """A message without its numbers, once they are combined; sizes are still counted for late trainers."""
    size = 0 if message.payload is None else message.payload.numel()
    placeholder = torch.empty(1, dtype=torch.uint8).expand(size) if message.payload is not None else None
    return Outgoing(
        round_key=message.round_key,
        trainer=message.trainer,
        layout=message.layout,
        seed=message.seed,
        weight=message.weight,
        payload=placeholder,
        values=None,
    )


def _get_payload(message: Outgoing) -> Tensor:
    assert message.payload is not None
    return message.payload


def _get_values(message: Outgoing) -> Tensor:
    assert message.values is not None
    return message.values


def _get_size(message: Outgoing) -> int:
    return _get_payload(message).numel()
