"""Marked tasks on the network without processes: what an idle node is asked, its submission, the verdicts of its checkers."""

from __future__ import annotations

import msgspec
from chain_harness import PARAMS, Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import marked
from paceline.ledger.checks import has_committed
from paceline.ledger.disputes import has_voted
from paceline.ledger.tasks import CHECKING, DISPUTED, FINAL, GUILTY, REVEALING, TASKS
from paceline.protocol import messages as m
from paceline.protocol.dummies import SubmitMarked

WINDOW = 40


def make_params(*, per_window=2, **changes):
    dummies = msgspec.structs.replace(PARAMS.dummies, marked_blocks=WINDOW, marked_per_window=per_window)
    return msgspec.structs.replace(PARAMS, check_blocks=6, dummies=dummies, **changes)


class MarkedChain(Chain):
    """After its first Race: until then nobody is idle."""

    def __init__(self, params=None, **options):
        super().__init__(params=params or make_params(), **options)
        self.run_race([100] * len(self.keys))

    def next_number(self, index):
        """The number that a node may answer now, once its chance is there."""
        address = self.keys[index].address

        def ready():
            number = marked.find_next(self.state, self.params, address)
            return number is not None and self.find_task(index, number) is not None

        self.run_until(ready)
        return marked.find_next(self.state, self.params, address)

    def find_task(self, index, number):
        try:
            return marked.derive_task(self.state, self.params, self.keys[index].address, number)
        except InvalidTransaction:
            return None

    def submission(self, number, **changes):
        fields = {"payload_hash": hash_parts("marked-payload", bytes([number])), "prompt_tokens": 9}
        return SubmitMarked(**{"number": number, "completion_tokens": 5, **fields, **changes})

    def submit(self, index, number=None):
        """A node answers its next marked task, or one of this number; the task's id."""
        number = self.next_number(index) if number is None else number
        task_id = self.find_task(index, number).task_id
        self.send(self.keys[index], self.submission(number))
        self.tick()
        return task_id

    def judge(self, task_id, outcome, *, checkers=None):
        """Drawn checkers commit and reveal; in a dispute everybody judges the same way. `checkers`: outcomes of some."""
        for _ in range(100):
            task = TASKS.get(self.state, task_id)
            if task.status in (FINAL, GUILTY):
                return task
            for key in self.keys:
                message = m.JudgeTask(task_id, m.Verdict((checkers or {}).get(key.address, outcome), "test", (7,)))
                if task.status == CHECKING and key.address in task.asked and not has_committed(task, key.address):
                    self.send(key, m.CommitVerdict(task_id, message.compute_commitment(key.address)))
                drawn = task.status == REVEALING and has_committed(task, key.address)
                called = task.status == DISPUTED and key.address != task.executor
                if (drawn or called) and not has_voted(task.votes, key.address):
                    self.send(key, message)
            self.tick()
        raise AssertionError("it was never judged")
