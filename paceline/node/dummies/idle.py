"""Fills a node's idle time with marked tasks: taken from public chance, answered in the background, dropped for anybody.

Idle is who has no request under way or waiting, had none for a while, and neither races, trains nor checks. It refuses to
know users. Invariant: a request never waits for a marked task longer than for one step of the model on another thread,
and a dropped one leaves nothing behind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from paceline.base.errors import Invalid, InvalidTransaction
from paceline.inference.backend import Backend
from paceline.ledger import clock, marked, nodes, race, training
from paceline.ledger.checks import has_committed
from paceline.ledger.marked import MarkedTask
from paceline.ledger.state import State
from paceline.ledger.tasks import CHECKING, OPEN_TASKS, TASKS
from paceline.node.answers.answering import MARKED, Answer, AnswerMaker
from paceline.node.cheats import CHEAP_MODEL
from paceline.node.context import Context
from paceline.node.models import ModelHost
from paceline.node.settings import DUMMY
from paceline.protocol.answers import Frame, TaskOrder, derive_sampler_seed
from paceline.protocol.codec import decode_own
from paceline.protocol.dummies import SubmitMarked
from paceline.protocol.messages import Receipt, Voucher
from paceline.verification.payloads import build_generation

LOG = logging.getLogger(__name__)
QUIET_SECONDS = 30.0
"""How long nobody has asked by the time that a node calls itself idle."""


class IdleWorker:
    """Marked tasks of one node."""

    def __init__(
        self,
        context: Context,
        host: ModelHost,
        maker: AnswerMaker,
        receipts: Path,
        get_backend: Callable[[str], Backend],
        read_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._host = host
        self._maker = maker
        self._receipts = receipts
        self._get_backend = get_backend
        self._clock = read_clock
        self._asked_at = read_clock()
        self._gone = Event()
        """Tells the marked task under way to end."""
        self._making: set[bytes] = set()
        self._failed = -1
        """Number of a marked task that cannot be answered here."""

    def on_block(self, state: State, *, is_free: bool) -> None:
        """Send what is answered; begin one when idle, stop it when not. `is_free`: no request is under way or waits."""
        self._send_kept(state)
        if self._context.settings.idle != DUMMY:
            return
        if not is_free or is_occupied(state, self._context.address):
            self._gone.set()
            return
        number = marked.find_next(state, self._context.params, self._context.address)
        if self._is_quiet() and number is not None and number > self._failed and not self.list_tasks():
            self._begin(state, number)

    def make_way(self) -> None:
        """Somebody asks: whatever is under way is dropped."""
        self._asked_at = self._clock()
        self._gone.set()

    def list_tasks(self) -> set[bytes]:
        """Marked tasks in the making, or answered and not on the ledger."""
        return self._making | {bytes.fromhex(path.stem) for path in self._list_kept()}

    def _begin(self, state: State, number: int) -> None:
        try:
            task = marked.derive_task(state, self._context.params, self._context.address, number)
        except InvalidTransaction as problem:
            # The chance may still come; what else is wrong ends with the window.
            LOG.debug("no marked task yet: %s", problem)
            return
        node = nodes.NODES.get(state, self._context.address)
        epoch = clock.compute_epoch(self._context.params, max(1, state.height))
        if node is not None and node.weight > 0 and node.guilty != epoch:
            self._context.duties.start("marked", lambda: self._work(task))

    def _is_quiet(self) -> bool:
        return self._clock() - self._asked_at >= QUIET_SECONDS

    async def _work(self, task: MarkedTask) -> None:
        if not self._is_quiet():
            return
        gone = self._gone = Event()
        model = await self._host.get(task.request.model, cheap=self._context.settings.cheat == CHEAP_MODEL)
        backend = self._get_backend(task.request.model)
        if gone.is_set():
            return
        backend.check_ready()
        try:
            seed = derive_sampler_seed(task.seed, task.task_id, task.request, marked.NOBODY)
            generation = build_generation(model, task.request, seed, backend.engine)
        except Invalid as problem:
            LOG.warning("%s cannot be asked what a marked task asks: %s", task.request.model, problem)
            self._failed = task.number
            return
        order = TaskOrder(self._name_place(task), task.request)
        answer = Answer(model, order, generation, backend, gone, _discard, is_marked=True)
        self._making.add(task.task_id)
        try:
            await self._context.threads.run("idle", self._maker.make, answer)
        finally:
            self._making.discard(task.task_id)
        if not gone.is_set() and not self._list_kept():
            # The work itself failed, and would again.
            self._failed = task.number

    def _name_place(self, task: MarkedTask) -> Voucher:
        """A voucher that nobody signed: it only says where the answer stands, and never leaves this node."""
        address = self._context.address
        return Voucher(
            session=marked.compute_session(address),
            index=task.number,
            executor=address,
            prompt_hash=task.request.compute_hash(),
            max_cost=0,
            total=0,
            skips=(),
            signature=bytes(64),
        )

    def _send_kept(self, state: State) -> None:
        node = nodes.NODES.get(state, self._context.address)
        for path in self._list_kept():
            receipt = decode_own(Receipt, path.read_bytes())
            if node is None or receipt.voucher.index <= node.marked:
                path.unlink()
            else:
                self._start_sending(path, receipt)

    def _start_sending(self, path: Path, receipt: Receipt) -> None:
        message = SubmitMarked(
            receipt.voucher.index,
            receipt.payload_hash,
            receipt.prompt_tokens,
            receipt.completion_tokens,
            receipt.seal,
        )
        self._context.duties.start("submit-marked", lambda: self._send(path, message))

    async def _send(self, path: Path, message: SubmitMarked) -> None:
        try:
            await self._context.chain.send(message)
        except InvalidTransaction as problem:
            LOG.info("marked task %d is refused: %s", message.number, problem)
            _forget(path)

    def _list_kept(self) -> list[Path]:
        return sorted(self._receipts.glob(f"*.{MARKED}"))


RESTING = {training.PAUSED, training.PUBLISHING, training.ENDED}
"""Phases of a run in which its trainers have nothing to do."""


def is_occupied(state: State, address: bytes) -> bool:
    """True while a Race runs, or a node trains or has an answer to check."""
    current = race.get_race(state)
    if current is None or current.phase not in (race.DONE, race.CONFIRM):
        return True
    runs = (run for _, run in training.RUNS.items(state))
    if any(run.phase not in RESTING and address in (*run.joined, *run.trainers) for run in runs):
        return True
    return any(_must_check(state, task_id, address) for task_id, _ in OPEN_TASKS.items(state))


def _must_check(state: State, task_id: bytes, address: bytes) -> bool:
    task = TASKS.get(state, task_id)
    return task is not None and task.status == CHECKING and address in task.asked and not has_committed(task, address)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _discard(_frame: Frame | None) -> None:
    """Nobody reads along."""
