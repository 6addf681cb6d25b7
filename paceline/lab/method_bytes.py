"""Bytes that a method of training sends, counted by its own codec and exchange before any tensor exists.

It refuses to know links and clocks. Invariant: where every trainer takes part, these are the bytes that the simulator counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from paceline.base.errors import ConfigError
from paceline.lab.cost import Message
from paceline.lab.training.record import compute_ddp_bytes
from paceline.training.codecs.codec import make_flat_layout
from paceline.training.methods.exchanges import AllReduce, ShardCoding, Syncer, Traffic
from paceline.training.methods.presets.registry import build_strategy
from paceline.training.methods.strategy import Rule, Subject

RAW_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class MethodBytes:
    """What one trainer sends by a method, and what an all-reduce of fp32 gradients after every step would be."""

    name: str
    messages: tuple[Message, ...]
    inner_steps: int
    """Between two rounds of the rule that trainers meet by least often."""
    all_reduce: float
    """Bytes that one trainer sends in a step."""

    @property
    def sent_per_step(self) -> float:
        """By one trainer."""
        return sum(message.sent / message.every for message in self.messages)


def count_method(name: str, settings: Mapping[str, Any], trainers: int, numbers: int) -> MethodBytes:
    """The messages of a method that synchronises so many numbers, in fp32 before its codec.

    Errors: ConfigError for an unknown method or setting, and for codecs whose bytes depend on the shapes of a model.
    """
    strategy = build_strategy(name, settings, trainers=trainers)
    messages = tuple(_count_rule(rule, trainers, numbers, name) for rule in strategy.rules)
    return MethodBytes(
        name=strategy.name,
        messages=messages,
        inner_steps=max((rule.trigger.interval for rule in strategy.rules), default=1),
        all_reduce=compute_ddp_bytes(numbers, trainers),
    )


def _count_rule(rule: Rule, trainers: int, numbers: int, name: str) -> Message:
    if rule.codec.needs_shapes:
        raise ConfigError(
            f"method {name}: its bytes depend on the shapes of the model's tensors; choose another, or simulate it"
        )
    parts = rule.trigger.fragments
    size = -(-numbers // parts)
    if rule.mask is not None:
        size = rule.mask.count(size)
    twice = 2 if rule.subject is Subject.DELTA_AND_ANCHOR else 1
    traffic = _count_traffic(rule, trainers, size)
    return Message(
        every=rule.trigger.interval // parts,
        sent=traffic.sent * twice,
        received=traffic.received * twice,
        delay=rule.trigger.delay,
    )


def _count_traffic(rule: Rule, trainers: int, size: int) -> Traffic:
    layout, members = make_flat_layout(size, torch.float32), tuple(range(trainers))
    if isinstance(rule.exchange, AllReduce):
        coding = ShardCoding(codec=rule.codec, layout=layout, members=members, key=b"")
        return coding.count_traffic(0, members, members)
    length = rule.codec.count_bytes(layout)
    if isinstance(rule.exchange, Syncer):
        return Traffic(sent=length, received=RAW_BYTES * size)
    sizes = dict.fromkeys(members, length)
    # Of an odd number of trainers in drawn pairs one stays alone: the busier of two.
    found = [rule.exchange.count_traffic(trainer, members, b"", sizes) for trainer in members[:2]]
    return max(found, key=lambda traffic: traffic.sent + traffic.received)
