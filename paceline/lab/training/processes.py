"""A strategy over real processes: one replica in each, its rounds carried by torch.distributed beside the training.

It refuses to know how processes are started, and it has no virtual clock: seconds are real, and nobody joins or leaves.
Invariant: the bits of every parameter and the bytes of every trainer are those of the simulator, because both drive the
same replicas with the same functions.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paceline.base.errors import ConfigError, WorkError
from paceline.base.hashing import hash_parts
from paceline.lab.training.accounts import (
    MAX_COMPARED,
    UPDATE,
    Meter,
    Point,
    Result,
    compute_average,
    compute_correlation,
    select_finite,
)
from paceline.lab.training.rounds import Round
from paceline.lab.training.transport import Transport
from paceline.training.methods.exchanges import AllGather, AllReduce, ShardCoding, Syncer, Traffic
from paceline.training.methods.replica import Course, Outcome, Outgoing, Replica, RoundKey, Waiting
from paceline.training.methods.strategy import Rule

CONTROL, EVALUATION = "control", "evaluation"
"""Kinds of bytes that no method counts: who takes part in a round, and replicas on their way to be evaluated."""

_HEADER = struct.Struct("<?dqqq")
"""Whether a trainer takes part in a round, its weight, and which round it means."""
_TOTALS = struct.Struct("<qqqddq")
_POINT = struct.Struct("<qqdqdd")


@dataclass(frozen=True, kw_only=True)
class ProcessPlan:
    """What a run over processes is made of besides its course."""

    evaluate_every: int
    timeout_seconds: float = 60.0
    """How long a process waits for another; longer than the slowest needs from one round to the next."""
    evaluate: Callable[[Tensor], float] | None = None
    on_progress: Callable[[int, int], None] | None = None
    """Called with this trainer's inner steps so far and in all."""


def run_process(course: Course, plan: ProcessPlan, params: Tensor) -> Result:
    """Play this process's part of a run; every process gets the same result.

    Errors: ConfigError before the first step when processes cannot run this strategy or differ in their settings;
    WorkError when another process is gone.
    Effects: opens and closes process groups of torch.distributed, which the caller has initialised.
    """
    return Process(course, plan, params).play()


class Carrier:
    """Carries rounds one after the other, in the order in which they were sent: the same on every process."""

    def __init__(self, course: Course, transport: Transport) -> None:
        self.course, self.transport = course, transport
        self.members = tuple(range(transport.world))

    def carry(self, message: Outgoing) -> tuple[Outcome, Traffic]:
        """One round from the first byte to its outcome, with the bytes it cost this trainer.

        Errors: WorkError when a process is gone or is at another round.
        """
        rule, rank = self.course.strategy.rules[message.round_key[0]], self.transport.rank
        found = Round(rule, message.round_key, self.members, message.seed)
        weights = self._tell(message)
        sent = {sender: _strip(message, sender, weight) for sender, weight in weights.items()}
        if isinstance(rule.exchange, AllReduce):
            found.messages = sent
            outcome = Outcome(self._reduce(rule, message, weights), len(weights))
        else:
            payloads = self._spread(rule, message, sent) if _is_relayed(rule) else self._send(rule, message, sent)
            found.messages = {sender: replace(sent[sender], payload=payloads[sender]) for sender in payloads}
            outcome = found.compute_outcome(rank)
        return outcome, found.count_traffic(rank)

    def _tell(self, message: Outgoing) -> dict[int, float]:
        """Weights of the trainers that take part."""
        row = _HEADER.pack(not message.reason, message.weight, *message.round_key)
        found = {}
        for peer, other in enumerate(self.transport.tell_all(CONTROL, row)):
            takes_part, weight, *round_key = _HEADER.unpack(other)
            if tuple(round_key) != message.round_key:
                raise WorkError(f"process {peer} is at round {round_key}, this one at {list(message.round_key)}")
            if takes_part:
                found[peer] = weight
        return found

    def _reduce(self, rule: Rule, message: Outgoing, weights: dict[int, float]) -> Tensor | None:
        if not weights:
            return None
        rank = self.transport.rank
        coding = ShardCoding(rule.codec, message.layout, self.members, message.seed)
        sizes = coding.list_sizes()
        others = [member for member in self.members if member != rank]
        own = [] if message.values is None else coding.encode(message.values)
        scattered = {member: own[member] for member in others if own}
        arriving = {member: sizes[rank] for member in others if member in weights}
        received = self.transport.exchange(UPDATE, scattered, arriving)
        if own:
            received[rank] = own[rank]
        reduced = coding.reduce(rank, received, weights, rule.combine)
        gathered = self.transport.exchange(
            UPDATE, dict.fromkeys(others, reduced), {member: sizes[member] for member in others}
        )
        gathered[rank] = reduced
        return coding.join([gathered[member] for member in self.members])

    def _send(self, rule: Rule, message: Outgoing, sent: dict[int, Outgoing]) -> dict[int, Tensor]:
        rank, exchange = self.transport.rank, rule.exchange
        sources = exchange.get_sources(rank, self.members, message.seed)
        listeners = [
            member
            for member in self.members
            if member != rank and rank in exchange.get_sources(member, self.members, message.seed)
        ]
        size = rule.codec.count_bytes(message.layout)
        out = {} if message.payload is None else dict.fromkeys(listeners, message.payload)
        received = self.transport.exchange(
            UPDATE, out, {source: size for source in sources if source != rank and source in sent}
        )
        return received if message.payload is None else received | {rank: message.payload}

    def _spread(self, rule: Rule, message: Outgoing, sent: dict[int, Outgoing]) -> dict[int, Tensor]:
        size = rule.codec.count_bytes(message.layout)
        return {
            sender: self.transport.spread(UPDATE, sender, message.payload if sender == message.trainer else None, size)
            for sender in sorted(sent)
        }


class Process:
    """One process of a run: the replica trains here, and a thread beside it carries rounds until they are needed."""

    def __init__(self, course: Course, plan: ProcessPlan, params: Tensor) -> None:
        _require_runnable(course, plan, params)
        self.course, self.plan = course, plan
        self.updates = Transport(plan.timeout_seconds)
        self.checks = Transport(plan.timeout_seconds)
        self.rank, self.world = self.updates.rank, self.updates.world
        self.replica = Replica(course, self.rank, params)
        self.meter = Meter()
        self.points: list[Point] = []
        self.events: list[str] = []
        self.rounds = 0
        self._average = params
        self._began = time.perf_counter()

    def play(self) -> Result:
        """Train to the end. Every process must call it."""
        self._require_equal_start()
        carrier = Carrier(self.course, self.updates)
        under_way: dict[RoundKey, Future[tuple[Outcome, Traffic]]] = {}
        pool = ThreadPoolExecutor(max_workers=1)
        try:
            until = 0
            while self.replica.step < self.course.total_steps:
                until = min(until + self.plan.evaluate_every, self.course.total_steps)
                self._train(until, carrier, under_way, pool)
                self._evaluate()
        finally:
            pool.shutdown(cancel_futures=True)
        return self._close()

    def _train(
        self,
        until: int,
        carrier: Carrier,
        under_way: dict[RoundKey, Future[tuple[Outcome, Traffic]]],
        pool: ThreadPoolExecutor,
    ) -> None:
        while True:
            before, began = self.replica.step, time.perf_counter()
            move = self.replica.advance(until)
            self.meter.compute_seconds += time.perf_counter() - began
            self.meter.steps += self.replica.step - before
            if self.plan.on_progress is not None and self.replica.step > before:
                self.plan.on_progress(self.replica.step, self.course.total_steps)
            if isinstance(move, Outgoing):
                if move.reason:
                    self._note(f"trainer {self.rank} withdrew from round {move.round_key[2]}: {move.reason}")
                under_way[move.round_key] = pool.submit(carrier.carry, move)
            elif isinstance(move, Waiting):
                self._deliver(move.round_key, under_way.pop(move.round_key))
            else:
                return

    def _deliver(self, round_key: RoundKey, carried: Future[tuple[Outcome, Traffic]]) -> None:
        began = time.perf_counter()
        outcome, traffic = carried.result()
        self.meter.idle_seconds += time.perf_counter() - began
        self.meter.count(UPDATE, sent=traffic.sent, received=traffic.received)
        self.rounds += 1
        self.replica.deliver(round_key, outcome)

    def _evaluate(self) -> None:
        """The first process gathers the replicas and evaluates their average; the others train on."""
        own = self.replica.desk.keep()
        totals = [_TOTALS.unpack(row) for row in self.checks.tell_all(CONTROL, self._pack_totals())]
        size = own.numel() * own.element_size()
        if self.rank:
            self.checks.exchange(EVALUATION, {0: own.view(torch.uint8)}, {})
            return
        arrived = self.checks.exchange(EVALUATION, {}, dict.fromkeys(range(1, self.world), size))
        vectors = select_finite([own, *(arrived[peer].view(own.dtype) for peer in range(1, self.world))])
        self._average = compute_average(vectors)
        self.points.append(
            Point(
                step=self.replica.step,
                tokens=self.replica.step * self.course.batch_tokens * self.world,
                seconds=time.perf_counter() - self._began,
                bytes_sent=sum(row[0] for row in totals),
                loss=self.plan.evaluate(self._average) if self.plan.evaluate is not None else float("nan"),
                correlation=compute_correlation(vectors[:MAX_COMPARED]),
            )
        )

    def _close(self) -> Result:
        """Everyone learns what the first process measured and what each one counted."""
        counted = (self.updates.sent[UPDATE], self.updates.received[UPDATE])
        assert counted == (self.meter.sent[UPDATE], self.meter.received[UPDATE]), "formula and transport differ"
        rows = [_TOTALS.unpack(row) for row in self.checks.tell_all(CONTROL, self._pack_totals())]
        texts = [self._spread_text(peer, rows[peer][5]) for peer in range(self.world)]
        average = self._average.contiguous().view(torch.uint8) if self.rank == 0 else None
        size = self._average.numel() * self._average.element_size()
        params = self.checks.spread(EVALUATION, 0, average, size).view(self._average.dtype)
        points = self._spread_points()
        self.updates.close()
        self.checks.close()
        return Result(
            method=self.course.strategy.name,
            param_count=params.numel(),
            points=points,
            meters=tuple(_make_meter(row) for row in rows),
            seconds=time.perf_counter() - self._began,
            rounds=self.rounds,
            events=tuple(line for text in texts for line in text.splitlines()),
            params=params,
        )

    def _spread_text(self, source: int, size: int) -> str:
        own = torch.frombuffer(bytearray(self._get_text() or b" "), dtype=torch.uint8)[:size]
        spread = self.checks.spread(CONTROL, source, own if source == self.rank else None, size)
        return spread.numpy().tobytes().decode()

    def _spread_points(self) -> tuple[Point, ...]:
        count = -(-self.course.total_steps // self.plan.evaluate_every)
        packed = b"".join(
            _POINT.pack(point.step, point.tokens, point.seconds, point.bytes_sent, point.loss, point.correlation)
            for point in self.points
        )
        own = torch.frombuffer(bytearray(packed), dtype=torch.uint8) if self.rank == 0 else None
        spread = self.checks.spread(CONTROL, 0, own, count * _POINT.size)
        names = ("step", "tokens", "seconds", "bytes_sent", "loss", "correlation")
        return tuple(
            Point(**dict(zip(names, row, strict=True))) for row in _POINT.iter_unpack(spread.numpy().tobytes())
        )

    def _pack_totals(self) -> bytes:
        meter = self.meter
        counted = (meter.sent[UPDATE], meter.received[UPDATE], meter.steps)
        return _TOTALS.pack(*counted, meter.compute_seconds, meter.idle_seconds, len(self._get_text()))

    def _get_text(self) -> bytes:
        return "\n".join(self.events).encode()

    def _require_equal_start(self) -> None:
        course = self.course
        described = repr(
            (course.strategy, course.total_steps, course.seed, course.batch_tokens, self.plan.evaluate_every)
        )
        start = self.replica.desk.keep().view(torch.uint8).numpy().tobytes()
        row = hash_parts("training-processes", described.encode(), start)
        for peer, other in enumerate(self.checks.tell_all(CONTROL, row)):
            if other != row:
                raise ConfigError(
                    f"process {peer}: other settings or initial parameters than process {self.rank}; give all the same"
                )

    def _note(self, text: str) -> None:
        self.events.append(f"{time.perf_counter() - self._began:.3f} s: {text}")


def _require_runnable(course: Course, plan: ProcessPlan, params: Tensor) -> None:
    if any(isinstance(rule.exchange, Syncer) for rule in course.strategy.rules):
        raise ConfigError(
            f"strategy {course.strategy.name!r}: a synchroniser merges in the order of arrival, which real clocks do not"
            " repeat; simulate it instead"
        )
    if params.device.type != "cpu":
        raise ConfigError(f"processes: they exchange over gloo and train on the CPU; the model is on {params.device}")
    if plan.evaluate_every < 1:
        raise ConfigError(f"evaluate_every {plan.evaluate_every}: must be at least 1")


def _is_relayed(rule: Rule) -> bool:
    return isinstance(rule.exchange, AllGather) and rule.exchange.relay


def _strip(message: Outgoing, sender: int, weight: float) -> Outgoing:
    """What this process knows of another's message before its bytes arrive."""
    return replace(message, trainer=sender, weight=weight, values=None, payload=None, reason="")


def _make_meter(row: tuple[int, int, int, float, float, int]) -> Meter:
    sent, received, steps, compute_seconds, idle_seconds, _ = row
    meter = Meter(compute_seconds=compute_seconds, idle_seconds=idle_seconds, steps=steps)
    meter.count(UPDATE, sent=sent, received=received)
    return meter
