"""A ledger with forced errors: executors that set and show them, checkers that look or do not."""

from __future__ import annotations

import msgspec
from chain_harness import PARAMS, Chain, get_wealth, make_group_key

from paceline.base.bls import EncryptionKey
from paceline.base.hashing import hash_parts
from paceline.base.private_draws import draw_lot
from paceline.ledger import marked, nodes
from paceline.ledger.checks import has_committed
from paceline.ledger.disputes import has_voted
from paceline.ledger.invariants import find_violations
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.settlement import get_settlement, settle_epoch
from paceline.ledger.tasks import CHECKING, DISPUTED, DRAWING, REVEALING, SHOWING, TASKS
from paceline.ledger.traps import is_drawn, must_show
from paceline.protocol import messages as m
from paceline.protocol.dummies import SubmitMarked
from paceline.protocol.traps import ShowDraws, Showing, compute_lot_message, compute_seal

ALWAYS = 1_000_000


def make_params(forced_error_ppm=ALWAYS, **changes):
    """Parameters of the harness with forced errors, `changes` in those of tasks."""
    tasks = msgspec.structs.replace(PARAMS.tasks, forced_error_ppm=forced_error_ppm, show_blocks=6, **changes)
    return msgspec.structs.replace(PARAMS, tasks=tasks, epoch_blocks=240)


class TrapChain(Chain):
    """Answers tasks and checks them. `lazy` checkers accept whatever comes; the others see the wrong version."""

    def __init__(self, params=None, *, lazy=(), weights=None):
        super().__init__(params=params or make_params(), weights=weights)
        self.lazy = {self.keys[index].address for index in lazy}
        self.wrong = set()
        """Tasks whose checkers are shown a wrong answer."""
        self.session_id = b""
        self.index = -1

    def task(self, task_id):
        return TASKS.get(self.state, task_id)

    def lot(self, key, task_id):
        secret = EncryptionKey.from_secret(hash_parts("test-group-key", key.secret))
        assert secret.public_key == make_group_key(key).public_key
        return draw_lot(secret, compute_lot_message(self.application.chain_id, task_id))

    def payloads(self, task_id):
        """Hashes of true answer and wrong version, and the salt of the seal."""
        return hash_parts("answer", task_id), hash_parts("wrong", task_id), hash_parts("salt", task_id)

    def receipt(self, session_id, index, executor, *, force=None, **options):
        receipt, task_id = super().receipt(session_id, index, executor, **options), compute_task_id(session_id, index)
        drawn = is_drawn(self.params, receipt.completion_tokens, self.lot(executor, task_id).point)
        true, wrong, salt = self.payloads(task_id)
        is_wrong = drawn if force is None else force
        if is_wrong:
            self.wrong.add(task_id)
        return msgspec.structs.replace(receipt, payload_hash=wrong if is_wrong else true, seal=compute_seal(true, salt))

    def answer(self, *, force=None, completion=20):
        """The next task, answered by its first drawn node; `force` says otherwise than the draw whether to cheat checkers."""
        self.session_id = self.session_id or self.open_session(deposit=10**12)
        self.index += 1
        task_id, executor = (
            compute_task_id(self.session_id, self.index),
            self.first_executor(self.session_id, self.index),
        )
        receipt = self.receipt(self.session_id, self.index, executor, completion=completion, force=force)
        self.send(executor, m.SubmitReceipts((receipt,)))
        self.tick()
        self.run_until(lambda: self.task(task_id).status != DRAWING)
        return task_id, executor

    def answer_marked(self, index, number, *, completion, force=False):
        """What a node submits for a marked task."""
        key = self.keys[index]
        task_id = compute_task_id(marked.compute_session(key.address), number)
        true, wrong, salt = self.payloads(task_id)
        shown = wrong if force else true
        return SubmitMarked(number, shown, 20, completion, compute_seal(true, salt))

    def answer_checked(self, least=1, most=5, **options):
        """Tasks until one has so many checkers."""
        for _ in range(60):
            task_id, executor = self.answer(**options)
            if least <= len(self.task(task_id).drawn) <= most:
                return task_id, executor
        raise AssertionError("no task drew that many checkers")

    def showing(self, task_id, executor, **changes):
        true, _, salt = self.payloads(task_id)
        lot = self.lot(executor, task_id)
        fields = {"task": task_id, "point": lot.point, "proof": lot.proof, "answer_hash": true, "salt": salt}
        return Showing(**fields | changes)

    def show(self, task_id):
        executor = self.find_key(self.task(task_id).executor)
        self.send(executor, ShowDraws((self.showing(task_id, executor),)))

    def settle(self):
        """The epoch's end as of now, on a state of its own: what each account gained, and the lines by address."""
        state = self.state
        before = {key.address: get_wealth(state, key.address) for key in self.keys}
        settle_epoch(state, self.params, 0)
        assert find_violations(state, self.params) == []
        gained = {address: get_wealth(state, address) - had for address, had in before.items()}
        return state, gained, {line.address: line for line in get_settlement(state, 0)}

    def find_key(self, address):
        return next(key for key in self.keys if key.address == address)

    def verdict(self, task_id, address):
        wrong = self.task(task_id).payload_hash == self.payloads(task_id)[1]
        seen = wrong and address not in self.lazy
        return m.JudgeTask(task_id, m.Verdict(m.REJECTED if seen else m.ACCEPTED, "test", (1, -20_000)))

    def act(self, task_id, *, outcomes=None, shows=True, votes=True):
        """What nodes do about a task at one height; `outcomes` overrides verdicts by address."""
        task = self.task(task_id)
        for key in self.keys:
            message = self.verdict(task_id, key.address)
            if outcomes and key.address in outcomes:
                outcome, evidence = outcomes[key.address]
                message = m.JudgeTask(task_id, m.Verdict(outcome, "test", evidence))
            bound = has_committed(task, key.address)
            if task.status == CHECKING and key.address in task.asked and not bound:
                self.send(key, m.CommitVerdict(task_id, message.compute_commitment(key.address)))
            elif (task.status == REVEALING and bound and not has_voted(task.votes, key.address)) or (
                votes and self._votes(task, key.address)
            ):
                self.send(key, message)
        if shows and task.status in (SHOWING, DISPUTED) and must_show(self.params, task):
            self.show(task_id)

    def check(self, task_id, *, until=(), **options):
        """Let everybody act until the task has one of the statuses, or is settled."""
        for _ in range(200):
            if self.task(task_id).status in (until or ("final", "guilty")):
                return self.task(task_id)
            self.act(task_id, **options)
            self.tick()
        raise AssertionError("it never came about")

    def _votes(self, task, address):
        may = address != task.executor and address in nodes.get_weights(self.state)
        return task.status == DISPUTED and may and not has_voted(task.votes, address)
