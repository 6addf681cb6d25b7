"""A method as a composition: an inner optimiser, and rules that say what is sent when, how, and what becomes of it.

It refuses to know models and machines. Invariant: a setting that has no effect in its combination is refused, never
ignored, so two strategies that compare equal train equally.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from paceline.base.errors import ConfigError
from paceline.training.codecs.codec import Codec
from paceline.training.codecs.masks import RandomMask
from paceline.training.codecs.quantisers import Raw
from paceline.training.methods.combine import Combine, Mean
from paceline.training.methods.exchanges import AllReduce, Exchange, Syncer
from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.outer_optimizers import DelayedNesterov, OuterOptimizer, PairwiseNesterov


class Subject(Enum):
    """What a rule sends."""

    GRADIENT = "gradient"
    """Of one batch; what comes back replaces it in the inner optimiser's step."""
    DELTA = "delta"
    """Anchor minus local parameters; what comes back moves the anchor."""
    DELTA_AND_ANCHOR = "delta-and-anchor"
    """Both, for methods whose trainers have anchors of their own."""
    PARAMS = "params"
    """Parameters themselves; the local ones move by the difference between the mean and what was sent."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """Every `interval` inner steps; with several `fragments` one after the other, evenly spread over the interval.

    What was sent comes into effect `delay` inner steps later; a trainer waits only if it has not arrived by then.
    With `by_speed` a slower trainer takes proportionally fewer steps in its interval.
    """

    interval: int = 1
    fragments: int = 1
    delay: int = 0
    by_speed: bool = False

    def __post_init__(self) -> None:
        if self.interval < 1 or self.fragments < 1 or self.delay < 0:
            raise ConfigError(
                f"interval {self.interval}, fragments {self.fragments}, delay {self.delay}: at least 1, 1 and 0"
            )
        if self.interval % self.fragments:
            raise ConfigError(f"interval {self.interval}: must be a multiple of fragments {self.fragments}")
        if self.delay > self.interval // self.fragments:
            raise ConfigError(
                f"delay {self.delay}: must not exceed {self.interval // self.fragments} steps, which is when the next "
                "fragment is sent"
            )
        if self.by_speed and (self.fragments > 1 or self.delay):
            raise ConfigError("by_speed excludes fragments and delay")

    def get_due_fragment(self, steps_done: int) -> int | None:
        """The fragment to send after so many inner steps."""
        stride = self.interval // self.fragments
        if steps_done == 0 or steps_done % stride:
            return None
        return (steps_done // stride - 1) % self.fragments

    def get_round(self, steps_done: int) -> int:
        """Number of the round that ends after so many inner steps."""
        return (steps_done - 1) // self.interval


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """How a new anchor enters the local parameters: local' = keep * local + (1 - keep) * anchor.

    `eager` (overlapped rounds only) puts a trainer's own newest delta in the place of the one it sent a round ago.
    Source: Streaming DiLoCo, arXiv 2501.18512 (keep 0.5); eager updates, arXiv 2502.12996.
    """

    keep: float = 0.0
    eager: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.keep < 1:
            raise ConfigError(f"mixer.keep {self.keep}: must be at least 0 and below 1")
        if self.eager and self.keep:
            raise ConfigError("mixer.eager excludes mixer.keep")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that a strategy synchronises.

    Errors: ConfigError naming the two settings that exclude each other.
    """

    subject: Subject
    trigger: Trigger = field(default_factory=Trigger)
    mask: RandomMask | None = None
    """Sends a random share of the numbers, drawn by everyone from the round's key."""
    codec: Codec = field(default_factory=Raw)
    feedback: float | None = None
    """Decay of the error feedback; None has none."""
    exchange: Exchange = field(default_factory=AllReduce)
    combine: Combine = field(default_factory=Mean)
    by_tokens: bool = False
    """Weighs updates by the tokens behind them."""
    sign: bool = False
    """Only the sign of the combined gradient goes on."""
    look_ahead: bool = False
    """Computes the next gradient where a trainer's own last message would lead, while the others' travel."""
    outer: OuterOptimizer | None = None
    mixer: Mixer = field(default_factory=Mixer)

    def __post_init__(self) -> None:
        for problem, found in (*self._list_subject_problems(), *self._list_message_problems()):
            if found:
                raise ConfigError(problem)

    @property
    def is_overlapped(self) -> bool:
        """True when a round ends as the next one is sent."""
        return self.trigger.delay == self.trigger.interval and self.trigger.fragments == 1

    def _list_subject_problems(self) -> list[tuple[str, bool]]:
        moves_anchor = self.subject in {Subject.DELTA, Subject.DELTA_AND_ANCHOR}
        gradient = self.subject is Subject.GRADIENT
        pairwise = isinstance(self.outer, PairwiseNesterov)
        return [
            ("outer: a delta needs an outer optimiser", moves_anchor and self.outer is None),
            (f"outer: {self.subject.value} takes none", not moves_anchor and self.outer is not None),
            ("outer: pairwise needs subject delta-and-anchor", pairwise != (self.subject is Subject.DELTA_AND_ANCHOR)),
            ("sign: only for gradients", self.sign and not gradient),
            (
                "look_ahead: needs gradients, a sign and delay 1",
                self.look_ahead and not (gradient and self.sign and self.trigger.delay == 1),
            ),
            ("delay: a delayed gradient needs look_ahead", gradient and self.trigger.delay > 0 and not self.look_ahead),
            (
                "interval: gradients are sent every step, whole",
                gradient and (self.trigger.interval, self.trigger.fragments) != (1, 1),
            ),
            ("mixer: only for deltas", self.mixer != Mixer() and not moves_anchor),
            (
                "mixer.eager: needs delay equal to interval and one fragment",
                self.mixer.eager and not self.is_overlapped,
            ),
            ("mixer.eager: takes the plain mean", self.mixer.eager and (self.combine != Mean() or self.by_tokens)),
            (
                "mixer.eager: needs all_reduce or all_gather",
                self.mixer.eager and not self.exchange.everyone,
            ),
            (
                "outer: a delayed momentum needs a syncer, whose arrivals it counts",
                isinstance(self.outer, DelayedNesterov) and not isinstance(self.exchange, Syncer),
            ),
        ]

    def _list_message_problems(self) -> list[tuple[str, bool]]:
        gradient, syncer = self.subject is Subject.GRADIENT, isinstance(self.exchange, Syncer)
        return [
            ("mask: only for params", self.mask is not None and self.subject is not Subject.PARAMS),
            (
                "codec: this one needs whole messages, not all_reduce",
                self.codec.needs_shapes and not self.exchange.whole,
            ),
            (
                "codec: this one needs shapes, which a mask takes away",
                self.codec.needs_shapes and self.mask is not None,
            ),
            ("feedback: needs whole messages, not all_reduce", self.feedback is not None and not self.exchange.whole),
            ("feedback: excludes a mask", self.feedback is not None and self.mask is not None),
            (
                "feedback: only for gradients and deltas",
                self.feedback is not None and self.subject in {Subject.PARAMS, Subject.DELTA_AND_ANCHOR},
            ),
            ("feedback: needs a decay above 0 and at most 1", self.feedback is not None and not 0 < self.feedback <= 1),
            ("combine: a syncer takes the mean", syncer and not isinstance(self.combine, Mean)),
            ("combine: this one needs all_gather", self.combine.needs_whole and not self.exchange.whole),
            ("by_tokens: the combine rule counts every update once", self.by_tokens and not self.combine.weighted),
            ("by_tokens: belongs to the exchange of a syncer", self.by_tokens and syncer),
            ("by_speed: needs a syncer; others meet at fixed steps", self.trigger.by_speed and not syncer),
            ("exchange: a syncer takes deltas", syncer and self.subject is not Subject.DELTA),
            (
                "exchange: gradients need everyone, or the trainers would differ",
                gradient and not self.exchange.everyone,
            ),
            (
                "exchange: one anchor needs everyone; with some neighbours only, send delta-and-anchor or params",
                self.subject is Subject.DELTA and not (self.exchange.everyone or syncer),
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A method. With a gradient rule the inner optimiser steps on what comes back, else on each trainer's own gradient.

    Errors: ConfigError for two gradient rules, a gradient rule beside a rule that needs replicas to differ, two rules
    of different numbers of fragments, or a syncer beside others.
    """

    name: str
    local: LocalOptimizer
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        gradients = [rule for rule in self.rules if rule.subject is Subject.GRADIENT]
        if gradients and len(self.rules) > 1:
            raise ConfigError("rules: a gradient rule keeps the trainers equal and excludes others")
        if len({rule.trigger.fragments for rule in self.rules} - {1}) > 1:
            raise ConfigError("rules: two rules cut the model into different fragments")
        if any(isinstance(rule.exchange, Syncer) for rule in self.rules) and len(self.rules) > 1:
            raise ConfigError("rules: a syncer excludes other rules")
        if sum(rule.outer is not None for rule in self.rules) > 1:
            raise ConfigError("rules: two rules move an anchor")

    @property
    def gradient_rule(self) -> Rule | None:
        """The rule whose result replaces gradients, if there is one."""
        found = [rule for rule in self.rules if rule.subject is Subject.GRADIENT]
        return found[0] if found else None

    @property
    def is_masked(self) -> bool:
        """True when all that travels is a random share of the parameters: no round replaces a whole vector."""
        return bool(self.rules) and all(rule.mask is not None for rule in self.rules)

    @property
    def fragments(self) -> int:
        """Into how many fragments the model is cut."""
        return max((rule.trigger.fragments for rule in self.rules), default=1)
