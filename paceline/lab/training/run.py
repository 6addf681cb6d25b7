"""A run of virtual trainers on a virtual clock: events in the order of time, each trainer's real computation in between.

It refuses to know configuration files and reports. Invariant: events of one time are played in the order in which they
were made, and nothing reads a real clock, so the same seed gives the same result bit for bit.
"""

from __future__ import annotations

import heapq
from typing import Any

import torch
from torch import Tensor

from paceline.base.errors import WorkError
from paceline.base.hashing import hash_parts
from paceline.lab.training.accounts import (
    ANCHOR,
    MAX_COMPARED,
    STATE,
    UPDATE,
    Evaluations,
    Meter,
    Point,
    Result,
    compute_average,
    compute_correlation,
    select_finite,
)
from paceline.lab.training.fleet import draw_uniform
from paceline.lab.training.heap import give_back_large_blocks
from paceline.lab.training.plan import Actor, Plan
from paceline.lab.training.rounds import Round, forget_numbers, list_rounds_ahead, make_syncers
from paceline.training.methods.exchanges import AllReduce, Syncer
from paceline.training.methods.replica import Course, Outcome, Outgoing, Reached, Replica, RoundKey, Waiting

__all__ = ["Actor", "Plan", "Run", "derive_run_seed"]

READY, MESSAGE, DELIVER, PUSH, MERGE, DEADLINE, CRASH, LEAVE, JOIN = range(9)


class Run:
    """Play it to the end with `play`, or for a while: `play(until_tokens)` returns earlier and can be called again."""

    def __init__(self, course: Course, plan: Plan, params: Tensor) -> None:
        give_back_large_blocks()
        self.course, self.plan = course, plan
        self.actors = [Actor(trainer) for trainer in range(len(plan.fleet.machines))]
        self.meters = [Meter() for _ in plan.fleet.machines]
        self.queue: list[tuple[float, int, int, int, Any]] = []
        self.rounds: dict[RoundKey, Round] = {}
        self.rounds_closed = 0
        self.steps_seen = [0] * len(self.actors)
        self.gone: set[int] = set()
        self.joiners: list[int] = []
        self.evaluations = Evaluations()
        self.points: list[Point] = []
        self.events: list[str] = []
        self.now = 0.0
        self._order = 0
        self._clock_scale = plan.pretend_params / params.numel() if plan.pretend_params else 1.0
        self.shared = course.make_shared_optimizer()
        self.syncers = make_syncers(course.strategy, course.bench.model, params)
        self._merged_at: float | None = None
        """When the synchroniser's anchor moved after its last evaluation."""
        self._schedule_lives(params)

    def play(self, until_tokens: int | None = None) -> bool:
        """Play events in the order of time; returns True once nothing is left to do.

        Errors: those of the model and the data; the run stays as it was before the event.
        """
        while until_tokens is None or self.count_tokens() < until_tokens or not self.queue:
            if not self.play_event():
                return True
        return False

    def play_event(self) -> bool:
        """Play the next event; False once none is left and the end was evaluated."""
        while self.queue:
            time, _, kind, trainer, data = heapq.heappop(self.queue)
            if not self._is_moot(kind, data):
                self.now = max(self.now, time)
                self._handle(kind, trainer, data, time)
                return True
        self._evaluate_last()
        return False

    def _is_moot(self, kind: int, data: Any) -> bool:
        """What comes after the end must neither move the clock nor take a trained replica away."""
        if kind == DEADLINE:
            return data not in self.rounds
        over = [actor.is_finished for actor in self.actors if actor.is_alive]
        return kind in {CRASH, LEAVE, JOIN} and bool(over) and all(over)

    def count_tokens(self) -> int:
        """Tokens that all trainers have trained on."""
        return sum(meter.steps for meter in self.meters) * self.course.batch_tokens

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run, when nobody joins or goes."""
        starters = sum(1 for machine in self.plan.fleet.machines if machine.joins_at == 0)
        return starters * self.course.total_steps * self.course.batch_tokens

    def get_result(self) -> Result:
        """What was measured so far."""
        return Result(
            method=self.course.strategy.name,
            param_count=self.course.bench.model.layout.size,
            points=tuple(self.points),
            meters=tuple(self.meters),
            seconds=self.now,
            rounds=self.rounds_closed + sum(syncer.merges for syncer in self.syncers),
            events=tuple(self.events),
            params=self._get_average(),
        )

    def _handle(self, kind: int, trainer: int, data: Any, time: float) -> None:
        if kind == DEADLINE:
            self._expire(data)
        elif kind == MERGE:
            self._merge(data, time)
        elif kind == JOIN:
            self.joiners.append(trainer)
            self._let_join_syncer(time)
        elif self.actors[trainer].is_alive:
            self._handle_own(self.actors[trainer], kind, data, time)

    def _handle_own(self, actor: Actor, kind: int, data: Any, time: float) -> None:
        """Events that end with their trainer."""
        if kind == READY:
            self._go_on(actor)
        elif kind == MESSAGE:
            self._take_message(data, time)
        elif kind == PUSH:
            self._push(data, time)
        elif kind == DELIVER:
            self._deliver(actor, *data, time=time)
        elif kind == CRASH:
            self._remove(actor, "crashed")
        else:
            actor.is_leaving = True

    def _go_on(self, actor: Actor) -> None:
        """Let a trainer compute until it sends, waits, or has to be evaluated."""
        replica = _require(actor)
        if self._is_over(replica):
            actor.is_finished = True
            self._settle_all()
            self._merge_all()
            return
        if self.syncers:
            replica.schedule_offset = sum(self.steps_seen) // self._count_starters() - replica.step
        before = replica.step
        move = replica.advance(self._get_goal(actor), rest=bool(self.joiners) or actor.is_leaving)
        self._account(actor, before)
        if isinstance(move, Outgoing):
            self._schedule(actor.time, MESSAGE, actor.trainer, move)
            self._schedule(actor.time, READY, actor.trainer)
        elif isinstance(move, Waiting):
            actor.waiting_for = move.round_key
        else:
            self._let_join(actor)
            self._reach(actor, move)
            if actor.is_leaving:
                self._remove(actor, "left")

    def _account(self, actor: Actor, before: int) -> None:
        machine, replica, meter = self.plan.fleet.machines[actor.trainer], _require(actor), self.meters[actor.trainer]
        for step in range(before, replica.step):
            seconds = machine.compute_step_seconds(self.course.seed, actor.trainer, step)
            actor.time += seconds
            if actor.time > machine.crashes_at:
                actor.undone += 1
                continue
            meter.compute_seconds += seconds
            meter.steps += 1
        if self.plan.on_progress is not None and replica.step > before:
            self.plan.on_progress(self.count_tokens(), self.total_tokens)

    def _reach(self, actor: Actor, reached: Reached) -> None:
        if reached.step >= self._get_goal(actor):
            if not self.syncers and not actor.undone:
                self._evaluate(actor, reached.step)
            actor.until += self.plan.evaluate_every
        self._schedule(actor.time, READY, actor.trainer)

    def _get_goal(self, actor: Actor) -> int:
        return actor.until if self.syncers else min(actor.until, self.course.total_steps)

    def _is_over(self, replica: Replica) -> bool:
        if self.syncers:
            return self.count_tokens() >= self.total_tokens
        return replica.step >= self.course.total_steps and not replica.pending

    # Synchronous rounds

    def _take_message(self, message: Outgoing, time: float) -> None:
        machine = self.plan.fleet.machines[message.trainer]
        lost = draw_uniform(b"lost", message.seed, message.trainer) < machine.lost_share
        if message.reason:
            self._note(f"trainer {message.trainer} withdrew from round {message.round_key[2]}: {message.reason}")
        if self.syncers:
            # Bursts are computed ahead of their time; what counts for the rate is what is over by now.
            self.steps_seen[message.trainer] = _require(self.actors[message.trainer]).step
            sent = 0 if message.payload is None else message.payload.numel()
            self.meters[message.trainer].count(UPDATE, sent=sent)
            # A push that is lost is sent again when the trainer has waited for the answer in vain.
            tries = 2 if lost else 1
            self._schedule(time + tries * self._time_transfer(message.trainer, sent, 0), PUSH, message.trainer, message)
            return
        found = self.rounds.get(message.round_key)
        if found is None:
            found = self._open(message, time)
        found.add(message, lost=lost)
        self._settle(found, time)

    def _open(self, message: Outgoing, time: float) -> Round:
        members = tuple(actor.trainer for actor in self.actors if actor.is_alive and not actor.is_finished)
        rule = self.course.strategy.rules[message.round_key[0]]
        made = Round(rule, message.round_key, members, message.seed)
        self.rounds[message.round_key] = made
        if self.plan.timeout_seconds > 0:
            self._schedule(time + self.plan.timeout_seconds, DEADLINE, message.trainer, message.round_key)
        return made

    def _settle(self, found: Round, time: float) -> None:
        """Serve whoever has all it needs."""
        ready = found.list_ready(self.gone)
        if not ready:
            return
        if found.is_for_all and found.finished_at == 0.0:
            found.finished_at = time + max(self._time_round(found, trainer) for trainer in ready)
        for trainer in ready:
            found.served.add(trainer)
            traffic = found.count_traffic(trainer)
            self.meters[trainer].count(UPDATE, sent=traffic.sent, received=traffic.received)
            at = max(time, found.finished_at) if found.is_for_all else time + self._time_round(found, trainer)
            self._schedule(at, DELIVER, trainer, (found.round_key, found.compute_outcome(trainer)))
        if found.outcome is not None:
            self._serve_listeners(found, found.outcome)
        self._close(found)

    def _serve_listeners(self, found: Round, outcome: Outcome) -> None:
        """Joiners hear an outcome from whoever let them in."""
        for listener, donor in sorted(found.listeners.items()):
            size = 0 if outcome.combined is None else outcome.combined.numel() * outcome.combined.element_size()
            self.meters[donor].count(STATE, sent=size)
            self.meters[listener].count(STATE, received=size)
            at = found.finished_at + self._time_transfer(listener, 0, size)
            self._schedule(at, DELIVER, listener, (found.round_key, outcome))
        found.listeners = {}

    def _close(self, found: Round) -> None:
        """Forget a round once everyone who can still ask was served; what it combined need not be kept."""
        if found.outcome is not None:
            found.messages = {trainer: forget_numbers(message) for trainer, message in found.messages.items()}
            found.lost = {trainer: forget_numbers(message) for trainer, message in found.lost.items()}
        if all(member in found.served or member in self.gone for member in found.members):
            del self.rounds[found.round_key]
            self.rounds_closed += 1

    def _expire(self, round_key: RoundKey) -> None:
        found = self.rounds.get(round_key)
        if found is None or found.expired or found.outcome is not None:
            return
        found.expired = True
        late = [member for member in found.members if member not in found.arrived and member not in self.gone]
        if late:
            self._note(f"round {round_key[2]} went on without trainers {', '.join(map(str, late))}")
        self._settle(found, self.now)

    def _settle_all(self) -> None:
        for found in list(self.rounds.values()):
            self._settle(found, self.now)

    def _time_round(self, found: Round, trainer: int) -> float:
        phases = 2 if isinstance(found.rule.exchange, AllReduce) else 1
        traffic = found.count_traffic(trainer)
        own = self._time_transfer(trainer, traffic.sent, traffic.received, phases)
        if found.is_for_all:
            return own
        sources = found.rule.exchange.get_sources(trainer, found.members, found.seed)
        return max(
            [
                own,
                *(
                    self._time_transfer(source, found.count_traffic(source).sent, 0)
                    for source in sources
                    if source in found.messages
                ),
            ]
        )

    def _time_transfer(self, trainer: int, sent: int, received: int, phases: int = 1) -> float:
        machine, scale = self.plan.fleet.machines[trainer], self._clock_scale
        return machine.compute_transfer_seconds(sent * scale, received * scale, phases)

    def _deliver(self, actor: Actor, round_key: RoundKey, outcome: Outcome, *, time: float) -> None:
        _require(actor).deliver(round_key, outcome)
        if actor.waiting_for == round_key:
            actor.waiting_for = None
            self.meters[actor.trainer].idle_seconds += max(0.0, time - actor.time)
            actor.time = max(actor.time, time)
            self._schedule(actor.time, READY, actor.trainer)

    # The synchroniser

    def _push(self, message: Outgoing, time: float) -> None:
        syncer = self.syncers[message.round_key[1]]
        syncer.waiting[message.trainer] = message
        self._merge_if_complete(message.round_key[1], time)

    def _merge_all(self) -> None:
        """Somebody is no longer waited for."""
        for fragment in range(len(self.syncers)):
            self._merge_if_complete(fragment, self.now)

    def _merge_if_complete(self, fragment: int, time: float) -> None:
        syncer = self.syncers[fragment]
        exchange = syncer.rule.exchange
        assert isinstance(exchange, Syncer)
        alive = [actor.trainer for actor in self.actors if actor.is_alive and not actor.is_finished]
        if syncer.waiting and not syncer.merging and syncer.is_complete(exchange.quorum, alive):
            if exchange.merges_each:
                self._merge(fragment, time)
                return
            syncer.merging = True
            self._schedule(time + exchange.grace_seconds, MERGE, 0, fragment)

    def _merge(self, fragment: int, time: float) -> None:
        outcome, pushed = self.syncers[fragment].merge()
        assert outcome.anchor is not None
        size = outcome.anchor.numel() * outcome.anchor.element_size()
        for trainer, message in sorted(pushed.items()):
            self.meters[trainer].count(ANCHOR, received=size)
            at = time + self._time_transfer(trainer, 0, size)
            self._schedule(at, DELIVER, trainer, (message.round_key, outcome))
        step = sum(self.steps_seen) // self._count_starters()
        if fragment == len(self.syncers) - 1 and step >= (len(self.points) + 1) * self.plan.evaluate_every:
            self._note_point(step, time, self._get_average(), 1.0)
            self._merged_at = None
        else:
            self._merged_at = time

    # Coming and going

    def _schedule_lives(self, params: Tensor) -> None:
        for actor, machine in zip(self.actors, self.plan.fleet.machines, strict=True):
            if machine.joins_at > 0:
                self._schedule(machine.joins_at, JOIN, actor.trainer)
            else:
                self._start(actor, params, 0.0)
                # Equal tensors would be computed on once for each trainer; the very same ones, once for all.
                first = next(other.replica for other in self.actors if other.replica is not None)
                _require(actor).start_like(first)
            if machine.crashes_at < float("inf"):
                self._schedule(machine.crashes_at, CRASH, actor.trainer)
            if machine.leaves_at < float("inf"):
                self._schedule(machine.leaves_at, LEAVE, actor.trainer)

    def _start(self, actor: Actor, params: Tensor, time: float) -> None:
        machine = self.plan.fleet.machines[actor.trainer]
        replica = Replica(self.course, actor.trainer, params, self.shared)
        replica.tamper = machine.make_tamper()
        replica.interval_scale = self.plan.fleet.fastest_step_seconds / machine.step_seconds
        actor.replica, actor.time, actor.is_alive = replica, time, True
        actor.until = self.plan.evaluate_every
        self._schedule(time, READY, actor.trainer)

    def _let_join(self, donor: Actor) -> None:
        """Joiners take over where a trainer stands right after a round, before anyone sends for the next one."""
        replica = _require(donor)
        if not self.joiners or self.syncers or replica.step >= self.course.total_steps:
            return
        under_way = [self.rounds.get(pending.round_key) for pending in replica.pending if pending.outcome is None]
        if any(found is None or not found.is_for_all for found in under_way):
            return
        ahead = list_rounds_ahead(self.rounds.values(), replica)
        if any(found.served for found in ahead):
            return
        for trainer in self.joiners:
            self._join(self.actors[trainer], donor)
            for found in ahead:
                found.members = tuple(sorted((*found.members, trainer)))
        self.joiners = []

    def _join(self, actor: Actor, donor: Actor) -> None:
        source = _require(donor)
        size = source.count_state_bytes()
        time = max(donor.time, self.now)
        time += max(self._time_transfer(actor.trainer, 0, size), self._time_transfer(donor.trainer, size, 0))
        self._start(actor, source.desk.keep(), time)
        replica = _require(actor)
        replica.join_from(source)
        actor.until = donor.until
        for pending in replica.pending:
            if pending.outcome is None and pending.round_key in self.rounds:
                self.rounds[pending.round_key].listeners[actor.trainer] = donor.trainer
        self.meters[actor.trainer].count(STATE, received=size)
        self.meters[donor.trainer].count(STATE, sent=size)
        self._note(f"trainer {actor.trainer} joined at step {replica.step} from trainer {donor.trainer}")

    def _let_join_syncer(self, time: float) -> None:
        """With a synchroniser a joiner pulls the anchor and begins."""
        if not self.syncers:
            return
        for trainer in self.joiners:
            anchor = self._get_average()
            size = anchor.numel() * anchor.element_size()
            self.meters[trainer].count(STATE, received=size)
            self._start(self.actors[trainer], anchor, time + self._time_transfer(trainer, 0, size))
            self._note(f"trainer {trainer} joined from the synchroniser")
        self.joiners = []

    def _remove(self, actor: Actor, how: str) -> None:
        replica = _require(actor)
        self._note(f"trainer {actor.trainer} {how} at step {replica.step - actor.undone}")
        replica.desk.keep()
        actor.is_alive, actor.replica = False, None
        self.gone.add(actor.trainer)
        self._settle_all()
        self._merge_all()
        self._finish_evaluations()

    # Evaluation

    def _evaluate(self, actor: Actor, step: int) -> None:
        self.evaluations.add(step, actor.trainer, _require(actor).desk.keep(), actor.time)
        self._finish_evaluations()

    def _finish_evaluations(self) -> None:
        alive = {actor.trainer for actor in self.actors if actor.is_alive}
        for found in self.evaluations.take_complete(alive):
            vectors = select_finite(found.vectors)
            if left_out := len(found.vectors) - len(vectors):
                self._note(f"evaluation at step {found.step} leaves out {left_out} trainers with NaN or infinity")
            correlation = compute_correlation(vectors[:MAX_COMPARED])
            self._note_point(found.step, found.seconds, compute_average(vectors), correlation)

    def _evaluate_last(self) -> None:
        """The end of a run with a synchroniser, which no trainer's step marks."""
        if self._merged_at is not None:
            self._note_point(sum(self.steps_seen) // self._count_starters(), self._merged_at, self._get_average(), 1.0)
            self._merged_at = None

    def _count_tokens_at(self, step: int) -> int:
        """Tokens behind an evaluation: faster trainers may be past it already."""
        if self.syncers:
            return sum(self.steps_seen) * self.course.batch_tokens
        ahead = sum(max(0, actor.replica.step - step) for actor in self.actors if actor.replica is not None)
        return self.count_tokens() - ahead * self.course.batch_tokens

    def _note_point(self, step: int, seconds: float, params: Tensor, correlation: float) -> None:
        loss = self.plan.evaluate(params) if self.plan.evaluate is not None else float("nan")
        sent = sum(sum(meter.sent.values()) for meter in self.meters)
        tokens = self._count_tokens_at(step)
        made = Point(step=step, tokens=tokens, seconds=seconds, bytes_sent=sent, loss=loss, correlation=correlation)
        self.points.append(made)

    def _get_average(self) -> Tensor:
        if self.syncers:
            return self.syncers[0].anchor if len(self.syncers) == 1 else torch.cat([s.anchor for s in self.syncers])
        alive = [actor.replica for actor in self.actors if actor.replica is not None]
        if not alive:
            raise WorkError("no trainer is left: all crashed or left before the end; let one stay")
        return compute_average(select_finite([replica.desk.keep() for replica in alive]))

    # Small things

    def _count_starters(self) -> int:
        return self.total_tokens // (self.course.total_steps * self.course.batch_tokens)

    def _schedule(self, time: float, kind: int, trainer: int, data: Any = None) -> None:
        heapq.heappush(self.queue, (time, self._order, kind, trainer, data))
        self._order += 1

    def _note(self, text: str) -> None:
        self.events.append(f"{self.now:.3f} s: {text}")


def derive_run_seed(seed: int) -> bytes:
    """The bytes from which all draws of a run follow."""
    return hash_parts("training-run", seed.to_bytes(8, "little"))


def _require(actor: Actor) -> Replica:
    assert actor.replica is not None
    return actor.replica
