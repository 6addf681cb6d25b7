"""One trainer of a run as a state machine: it takes inner steps, says what it sends, and waits for what comes back.

It refuses to know clocks, links and sockets: whoever drives it carries its messages and delivers their outcomes.
Invariant: what it does next follows from its state and the outcomes it was given, so the same run is bit for bit the
same in a simulator, over processes, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from paceline.base.errors import WorkError
from paceline.base.hashing import hash_parts
from paceline.training.codecs.codec import Layout, make_flat_layout
from paceline.training.codecs.feedback import ErrorFeedback
from paceline.training.methods.exchanges import Syncer
from paceline.training.methods.outer_optimizers import State
from paceline.training.methods.strategy import Rule, Strategy, Subject
from paceline.training.methods.workbench import Desk, Workbench

RoundKey = tuple[int, int, int]
"""Rule, fragment, round."""


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A trainer's contribution to a round. `reason` says why it withdrew; then there is nothing to send."""

    round_key: RoundKey
    trainer: int
    layout: Layout
    seed: bytes
    weight: float
    values: Tensor | None = None
    """For an all-reduce, which codes shards."""
    payload: Tensor | None = None
    """For every other exchange."""
    reason: str = ""


@dataclass
class Outcome:
    """What a round gave: the combined vector, None when nothing arrived; or the anchor, from a syncer.

    Trainers that share an outcome and start from the same tensors get the same results: `derive` computes them once.
    """

    combined: Tensor | None
    contributors: int
    anchor: Tensor | None = None
    _derived: dict[tuple[Any, ...], tuple[Any, Any]] = field(default_factory=dict, repr=False)

    def derive(self, what: str, *sources: Any, make: Callable[[], Any]) -> Any:
        """`make()` of the first trainer that asks for this with the very same source objects."""
        name = (what, *(id(source) for source in sources))
        if name not in self._derived:
            # The sources are kept, so that no other object can get their identity.
            self._derived[name] = (sources, make())
        return self._derived[name][1]

    def forget_identities(self) -> list[tuple[str, Any, Any]]:
        """What was derived, in a form that survives writing and reading."""
        return [(str(name[0]), sources, made) for name, (sources, made) in self._derived.items()]

    def restore(self, derived: list[tuple[str, Any, Any]]) -> None:
        """The reverse, once the sources are objects again."""
        self._derived = {
            (what, *(id(source) for source in sources)): (sources, made) for what, sources, made in derived
        }


@dataclass(frozen=True)
class Waiting:
    """Nothing goes on before this round's outcome is delivered."""

    round_key: RoundKey


@dataclass(frozen=True)
class Reached:
    """The trainer is at the step up to which it was asked to go."""

    step: int


@dataclass
class Pending:
    """A round whose outcome is still to come into effect."""

    round_key: RoundKey
    apply_at: int
    own: Tensor | None
    """What the trainer sent, as the others see it; kept only where a rule needs it."""
    indices: Tensor | None
    withdrawn: bool
    outcome: Outcome | None = None
    ahead_share: float = 0.0
    """Share of `own` that an eager update has put into effect before its round ended."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What all trainers of a run have in common."""

    strategy: Strategy
    bench: Workbench
    total_steps: int
    seed: bytes
    get_batch: Callable[[int, int], Tensor]
    """(trainer, step) to its batch."""
    batch_tokens: int

    def derive_seed(self, round_key: RoundKey) -> bytes:
        """What everyone knows about a round's random choices."""
        return hash_parts("training-round", self.seed, *(number.to_bytes(8, "little") for number in round_key))

    def make_shared_optimizer(self) -> torch.optim.Optimizer | None:
        """One for all trainers of a process, where a rule for gradients keeps them equal."""
        if self.strategy.gradient_rule is None:
            return None
        return self.strategy.local.build(self.bench.model.params)

    def derive_step_seed(self, trainer: int, step: int) -> int:
        """For what the model draws in one step, such as dropout: the same whoever else trains in this process."""
        digest = hash_parts("training-step", self.seed, trainer.to_bytes(8, "little"), step.to_bytes(8, "little"))
        return int.from_bytes(digest[:8], "little") >> 1


class Replica:
    """See the module. `tamper`, for attacks, changes what a trainer sends."""

    def __init__(
        self, course: Course, trainer: int, params: Tensor, shared: torch.optim.Optimizer | None = None
    ) -> None:
        self.course = course
        self.trainer = trainer
        self.optimizer = shared or course.strategy.local.build(course.bench.model.params)
        self.optimizer_owner = "all" if shared is not None else str(trainer)
        """Trainers whose parameters never differ take their steps with one optimiser, once for all."""
        self.desk = Desk(course.bench, params)
        self.step = 0
        self.schedule_offset = 0
        """Added to the step when the rate is looked up."""
        self.interval_scale = 1.0
        """Share of the interval that a slower trainer takes, for rules by speed."""
        self.tamper: Callable[[Tensor, bytes], Tensor] | None = None
        self._refused = False
        """The last inner step was not taken, because its gradient was not finite."""
        self.pending: list[Pending] = []
        rules = course.strategy.rules
        self.anchors = [self._cut(rule, params) if rule.outer is not None else [] for rule in rules]
        self.outer_states: list[list[State]] = [
            [self._make_outer_state(rule, anchor) for anchor in anchors]
            for rule, anchors in zip(rules, self.anchors, strict=True)
        ]
        self.residuals: list[list[Tensor | None]] = [[None] * rule.trigger.fragments for rule in rules]
        self._cursor = len(rules)
        self._fired = False
        self._applied = False
        self._trained_tokens = 0
        self._sent_tokens = [[0] * rule.trigger.fragments for rule in rules]
        """Tokens trained on when each rule last sent each fragment."""
        self._since_push = 0
        self._ahead: Tensor | None = None

    def advance(self, until: int, *, rest: bool = False) -> Outgoing | Waiting | Reached:
        """Go on to the next message, the next missing outcome, or the step `until`.

        With `rest` also stop between two inner steps once an outcome has come into effect; then others may join here.
        Errors: WorkError and ConfigError from the model or the data.
        """
        rules = self.course.strategy.rules
        while True:
            while self._cursor < len(rules):
                move = self._serve(self._cursor)
                if move is not None:
                    return move
                self._cursor, self._fired = self._cursor + 1, False
            rested, self._applied = self._applied, False
            if self.step >= until or (rest and rested):
                return Reached(self.step)
            self._take_step()
            self._cursor, self._fired = 0, False

    def start_like(self, other: Replica) -> None:
        """Before the first step: the very tensors of a trainer that starts from the same parameters."""
        self.anchors = [list(anchors) for anchors in other.anchors]
        self.outer_states = [list(states) for states in other.outer_states]

    def join_from(self, donor: Replica) -> None:
        """Take over where another trainer stands: parameters, anchors, and the rounds under way, to which it adds nothing."""
        self.desk.replace(donor.desk.keep())
        self.step = donor.step
        self.anchors = [list(anchors) for anchors in donor.anchors]
        self.outer_states = [list(states) for states in donor.outer_states]
        self.pending = [replace(pending) for pending in donor.pending]
        self._cursor, self._fired = donor._cursor, donor._fired

    def count_state_bytes(self) -> int:
        """What a joiner downloads: parameters, anchors that differ, outer states, rounds under way, a shared optimiser."""
        params = self.desk.read()
        found: list[Tensor | None] = [params]
        found += [anchor for anchors in self.anchors for anchor in anchors if anchor is not params]
        found += [tensor for states in self.outer_states for state in states for tensor in state]
        for pending in self.pending:
            found += [pending.own, None if pending.outcome is None else pending.outcome.combined]
        if self.optimizer_owner == "all":
            moments = [moment for state in self.optimizer.state.values() for moment in state.values()]
            found += [moment for moment in moments if isinstance(moment, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in found if tensor is not None)

    def deliver(self, round_key: RoundKey, outcome: Outcome) -> None:
        """Hand over what a round gave; it comes into effect when its delay is over."""
        for pending in self.pending:
            if pending.round_key == round_key:
                pending.outcome = outcome

    def _serve(self, index: int) -> Outgoing | Waiting | None:
        """One rule after an inner step: send if it is time, then put into effect what is due."""
        rule = self.course.strategy.rules[index]
        fragment = None if self._fired else self._get_due_fragment(rule)
        if fragment is not None:
            self._fired = True
            return self._send(index, fragment)
        ending = self.step == self.course.total_steps
        for pending in list(self.pending):
            if pending.round_key[0] == index and (ending or pending.apply_at <= self.step):
                if pending.outcome is None:
                    return Waiting(pending.round_key)
                self.pending.remove(pending)
                self._applied = True
                self._apply(index, pending, pending.outcome)
        return None

    def _get_due_fragment(self, rule: Rule) -> int | None:
        if rule.trigger.by_speed:
            # A whole number that the ratio of speeds just misses must not lose a step.
            steps = max(1, int(rule.trigger.interval * self.interval_scale + 1e-9))
            return 0 if self._since_push >= steps else None
        return rule.trigger.get_due_fragment(self.step)

    def _take_step(self) -> None:
        course, desk = self.course, self.desk
        course.bench.load(desk)
        model = course.bench.model
        rule = course.strategy.gradient_rule
        _seed_draws(course.derive_step_seed(self.trainer, self.step), model.values.device)
        batch = course.get_batch(self.trainer, self.step)
        if self._ahead is not None:
            self._compute_ahead(batch, self._ahead)
        else:
            model.compute_gradient(batch)
        if rule is not None and rule.sign:
            # Later it would clip the signs.
            course.strategy.local.clip_gradient(model.gradient)
        if rule is None:
            # Nobody ever sends all parameters: what is not finite would stay for good.
            self._refused = course.strategy.is_masked and not bool(torch.isfinite(model.gradient).all())
            if not self._refused:
                desk.write()
                self._step_optimizer(self.step)
        self.step += 1
        self._since_push += 1
        self._trained_tokens += course.batch_tokens

    def _compute_ahead(self, batch: Tensor, direction: Tensor) -> None:
        """The gradient where this trainer's own last message would lead; its parameters stay."""
        model, local = self.course.bench.model, self.course.strategy.local
        here = model.values.clone()
        # The message belongs to the step before and will be applied with that step's rate.
        rate = local.compute_rate(self.step - 1, self.course.total_steps)
        model.values.sub_(direction, alpha=rate)
        model.compute_gradient(batch)
        model.values.copy_(here)

    def _step_optimizer(self, step: int) -> None:
        course, local = self.course, self.course.strategy.local
        rule = course.strategy.gradient_rule
        if rule is None or not rule.sign:
            local.clip_gradient(course.bench.model.gradient)
        local.take_step(self.optimizer, self.schedule_offset + step, course.total_steps)

    def _send(self, index: int, fragment: int) -> Outgoing:
        rule = self.course.strategy.rules[index]
        number = self.step if rule.trigger.by_speed else rule.trigger.get_round(self.step)
        round_key = (index, fragment, number)
        seed = self.course.derive_seed(round_key)
        values, layout, indices = self._select(index, fragment, seed)
        if self.tamper is not None:
            values = self.tamper(values, seed)
        payload, own, reason = None, None, ""
        try:
            self._require_step()
            rule.codec.require_encodable(values)
            if rule.exchange.whole:
                payload = self._encode(index, fragment, values, layout, seed)
        except WorkError as problem:
            reason = str(problem)
            self.residuals[index][fragment] = None
        tokens = self._trained_tokens - self._sent_tokens[index][fragment]
        weight = float(tokens) if self._is_weighted(rule) else 1.0
        needs_own = rule.subject is Subject.PARAMS or rule.mixer.eager
        if payload is not None and (needs_own or rule.look_ahead):
            own = rule.codec.decode(payload, layout, seed)
        heard = None if reason else values if own is None else own
        kept = heard if needs_own else None
        if rule.look_ahead:
            self._ahead = None if heard is None else torch.sign(heard)
        self.pending.append(Pending(round_key, self.step + rule.trigger.delay, kept, indices, bool(reason)))
        self._sent_tokens[index][fragment], self._since_push = self._trained_tokens, 0
        self._let_go(rule, index)
        return Outgoing(
            round_key=round_key,
            trainer=self.trainer,
            layout=layout,
            seed=seed,
            weight=weight,
            values=values if payload is None and not reason else None,
            payload=payload,
            reason=reason,
        )

    def _require_step(self) -> None:
        if self._refused:
            raise WorkError("the gradient holds NaN or infinity; the step was not taken")

    def _is_weighted(self, rule: Rule) -> bool:
        return rule.by_tokens or (isinstance(rule.exchange, Syncer) and rule.exchange.by_tokens)

    def _let_go(self, rule: Rule, index: int) -> None:
        """Go on from the anchor where what was done since is on its way.

        Until a round without delay ends, the anchor stands for parameters that it will replace anyway. Of rounds that
        overlap, the first finds none before it whose result would put the parameters back; they would be sent twice.
        """
        replaced = rule.subject is Subject.DELTA and rule.mixer.keep == 0 and rule.trigger.fragments == 1
        before = [pending for pending in self.pending[:-1] if pending.round_key[0] == index]
        if replaced and (rule.trigger.delay == 0 or (rule.is_overlapped and not before)):
            self.desk.replace(self.anchors[index][0])

    def _select(self, index: int, fragment: int, seed: bytes) -> tuple[Tensor, Layout, Tensor | None]:
        """The numbers that a rule sends, their layout, and their places when a mask chose them."""
        rule = self.course.strategy.rules[index]
        place = self.course.bench.model.get_fragment(fragment, rule.trigger.fragments)
        if rule.subject is Subject.GRADIENT:
            return self.course.bench.model.gradient.clone(), place.layout, None
        local = self.desk.read()[place.span]
        if rule.subject is Subject.PARAMS:
            if rule.mask is None:
                return local.clone(), place.layout, None
            indices = rule.mask.draw(local.numel(), seed).to(local.device)
            return local[indices], make_flat_layout(indices.numel(), local.dtype), indices
        anchor = self.anchors[index][fragment]
        if rule.subject is Subject.DELTA:
            return anchor - local, place.layout, None
        both = Layout(place.layout.shapes * 2, place.layout.dtype)
        return torch.cat((anchor - local, anchor)), both, None

    def _encode(self, index: int, fragment: int, values: Tensor, layout: Layout, seed: bytes) -> Tensor:
        rule = self.course.strategy.rules[index]
        if rule.feedback is None:
            return rule.codec.encode(values, layout, seed)
        residual = self.residuals[index][fragment]
        held = torch.zeros_like(values) if residual is None else residual
        payload, self.residuals[index][fragment] = ErrorFeedback(rule.feedback).apply(
            held, values, rule.codec, layout, seed
        )
        return payload

    def _apply(self, index: int, pending: Pending, outcome: Outcome) -> None:
        rule = self.course.strategy.rules[index]
        if pending.withdrawn and rule.subject is not Subject.GRADIENT:
            # Moments of numbers that are not finite; an optimiser of combined gradients never sees such.
            self.optimizer.state.clear()
        empty = outcome.combined is None and outcome.anchor is None
        if rule.outer is not None:
            self._apply_delta(rule, pending, None if empty else outcome)
        elif rule.subject is Subject.GRADIENT and not empty:
            self._apply_gradient(rule, pending, outcome)
        elif not empty:
            self._apply_params(rule, pending, outcome)

    def _apply_gradient(self, rule: Rule, pending: Pending, outcome: Outcome) -> None:
        combined = outcome.combined
        assert combined is not None

        def step() -> Tensor:
            self.desk.write()
            self.course.bench.model.gradient.copy_(torch.sign(combined) if rule.sign else combined)
            self._step_optimizer(pending.round_key[2])
            return self.desk.keep()

        self.desk.replace(outcome.derive(f"step of {self.optimizer_owner}", self.desk.keep(), make=step))

    def _apply_params(self, rule: Rule, pending: Pending, outcome: Outcome) -> None:
        combined = outcome.combined
        assert combined is not None
        place = self.course.bench.model.get_fragment(pending.round_key[1], rule.trigger.fragments)
        local = self.desk.write()[place.span]
        if pending.own is None:
            # Its own numbers are not finite: only those of the others are of use.
            moved = combined
        else:
            moved = (local if pending.indices is None else local[pending.indices]) + (combined - pending.own)
        if pending.indices is None:
            local.copy_(moved)
        else:
            local[pending.indices] = moved

    def _apply_delta(self, rule: Rule, pending: Pending, outcome: Outcome | None) -> None:
        """Move the anchor and mix it in; a round that gave nothing leaves the anchor where it is."""
        index, fragment, _ = pending.round_key
        anchor, state = self.anchors[index][fragment], self.outer_states[index][fragment]
        if outcome is not None and outcome.anchor is not None:
            self.anchors[index][fragment] = outcome.anchor
        elif outcome is not None:
            combined, outer = self._make_eager(rule, pending, outcome), rule.outer
            assert outer is not None
            self.anchors[index][fragment], self.outer_states[index][fragment] = outcome.derive(
                "outer", anchor, state, combined, make=lambda: outer.apply(anchor, state, combined)
            )
        # Numbers that are not finite spread over the whole model within a step.
        touched = range(rule.trigger.fragments) if pending.withdrawn else [fragment]
        for place in touched:
            self._mix(rule, index, place, 0.0 if pending.withdrawn else rule.mixer.keep)

    def _make_eager(self, rule: Rule, pending: Pending, outcome: Outcome) -> Tensor:
        """The combined update, with this trainer's newest delta in the place of the one it sent.

        What an earlier round has put into effect ahead is taken back, so that over a run each delta counts once.
        """
        combined = outcome.combined
        assert combined is not None
        if not rule.mixer.eager:
            return combined
        if pending.own is not None and pending.ahead_share:
            combined = combined - pending.own * pending.ahead_share
        newer = [other for other in self.pending if other.round_key[0] == pending.round_key[0]]
        if newer and newer[-1].own is not None:
            newer[-1].ahead_share = 1 / outcome.contributors
            combined = combined + newer[-1].own * newer[-1].ahead_share
        return combined

    def _mix(self, rule: Rule, index: int, fragment: int, keep: float) -> None:
        anchor = self.anchors[index][fragment]
        if rule.trigger.fragments == 1 and keep == 0:
            self.desk.replace(anchor)
            return
        place = self.course.bench.model.get_fragment(fragment, rule.trigger.fragments)
        local = self.desk.write()[place.span]
        local.copy_(anchor if keep == 0 else local * keep + anchor * (1 - keep))

    def _make_outer_state(self, rule: Rule, anchor: Tensor) -> State:
        """A synchroniser keeps the state of its rule for everyone."""
        if rule.outer is None or isinstance(rule.exchange, Syncer):
            return ()
        return rule.outer.make_state(anchor)

    def _cut(self, rule: Rule, params: Tensor) -> list[Tensor]:
        count = rule.trigger.fragments
        if count == 1:
            return [params]
        return [params[self.course.bench.model.get_fragment(index, count).span] for index in range(count)]


def _seed_draws(seed: int, device: torch.device) -> None:
    # torch.manual_seed formats a stack trace for each kind of accelerator that is not in use, a millisecond in all.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
