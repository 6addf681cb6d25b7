"""A chain for attacks on tasks: everybody answers and checks as drawn until the epoch settles; a test says who does otherwise."""

from __future__ import annotations

import msgspec
from chain_harness import MODEL, PARAMS, Chain, get_wealth

from paceline.ledger import clock, nodes
from paceline.ledger.disputes import has_voted
from paceline.ledger.sessions import GRACE_BLOCKS, SESSIONS, compute_session_id
from paceline.ledger.tasks import CHECKING, DISPUTED, FINAL, OPEN_TASKS, REVEALING, TASKS
from paceline.protocol import messages as m

DEPOSIT = 10**11
BATCH = 64
# The floor issuance would drown what answers pay, and whoever loses a share of its pay loses that share of it as well.
FEES_ONLY = msgspec.structs.replace(PARAMS, epoch_blocks=160, blocks_per_day=10**18)
FEE = 30 * FEES_ONLY.unit_price
"""What a task of `Chain.receipt` costs."""


def change_tasks(params=FEES_ONLY, **changes):
    """The same network with other `TaskParams`: how a defence is switched off."""
    return msgspec.structs.replace(params, tasks=msgspec.structs.replace(params.tasks, **changes))


def judge_honestly(_task_id, _task):
    """Every answer of these chains is right unless a test says otherwise."""
    return m.Verdict(m.ACCEPTED, "test", (1, 0))


def sleep(_task_id, _task):
    """No verdict: the duty is missed."""
    return


class TaskChain(Chain):
    """Equal nodes in their first epoch, whose genesis weights rule; `judges` says by address who does not judge honestly."""

    def __init__(self, count=5, params=FEES_ONLY, **options):
        super().__init__(count, params=params, **options)
        self.judges = {}

    def balance(self, key):
        """With what vests: nobody is found guilty later on."""
        return get_wealth(self.state, key.address)

    def open_sessions(self, relays, deposit=DEPOSIT):
        """One session for each relay named, all drawn by the same height of the beacon."""
        opened = []
        for relay in relays:
            digest = self.send(self.user, m.OpenSession(self.keys[relay].address, MODEL, deposit))
            opened.append(compute_session_id(self.user.address, digest))
        self.tick()
        self.run_until(lambda: all(SESSIONS.get(self.state, session_id).seed for session_id in opened))
        return opened

    def serve(self, session_id, indices, pick=lambda _order: 0, **options):
        """Receipts of the nodes whose places in the drawn order `pick` says; the relay calls those before them late."""
        relay = self.key_of(SESSIONS.get(self.state, session_id).relay)
        found = {}
        for index in indices:
            order = self.order(session_id, index)
            rank = pick(order)
            skips = [self.skip(session_id, index, address, signer=relay) for address in order[:rank]]
            receipt = self.receipt(session_id, index, self.key_of(order[rank]), skips=skips, **options)
            found.setdefault(order[rank], []).append(receipt)
        for address, receipts in found.items():
            for start in range(0, len(receipts), BATCH):
                self.send(self.key_of(address), m.SubmitReceipts(tuple(receipts[start : start + BATCH])))
        self.tick()

    def draw_task(self, session_id, index):
        """An index answered by the node that is drawn for it; the task once its checkers are drawn."""
        task_id, _ = self.answer(session_id, index)
        return self.run_to(task_id, CHECKING, FINAL)

    def check_all(self):
        """All duties and disputes, until no task is open."""

        def is_over():
            self._do_checks()
            return not any(True for _ in OPEN_TASKS.scan(self.state))

        self.run_until(is_over)

    def close(self, *session_ids):
        """End sessions and wait until what they do not owe is back."""
        for session_id in session_ids:
            self.send(self.user, m.CloseSession(session_id))
        for _ in range(GRACE_BLOCKS + 2):
            # Nothing waits for the beacon, so nobody signs.
            self.block()
        assert not any(SESSIONS.get(self.state, session_id) for session_id in session_ids)

    def settle(self):
        """To the end of the first epoch."""
        while self.height < clock.compute_last_height(self.params, 0):
            self.block()

    def find_node(self, address):
        return nodes.NODES.get(self.state, address)

    def write_verdict(self, address, task_id):
        """What a node says about a task, ready to be committed to; None from a sleeper."""
        verdict = self.judges.get(address, judge_honestly)(task_id, TASKS.get(self.state, task_id))
        return None if verdict is None else m.JudgeTask(task_id, verdict, address.ljust(32, b"s"))

    def _do_checks(self):
        for task_id, _ in OPEN_TASKS.items(self.state):
            task = TASKS.get(self.state, task_id)
            committed = [checker for checker, _ in task.commitments]
            if task.status == CHECKING:
                for address in task.asked:
                    if address not in committed:
                        self._commit(address, task_id)
            elif task.status in (REVEALING, DISPUTED):
                voters = committed if task.status == REVEALING else nodes.get_weights(self.state)
                for address in voters:
                    if address != task.executor and not has_voted(task.votes, address):
                        self._reveal(address, task_id)

    def _commit(self, address, task_id):
        message = self.write_verdict(address, task_id)
        if message is not None:
            self.send(self.key_of(address), m.CommitVerdict(task_id, message.compute_commitment(address)))

    def _reveal(self, address, task_id):
        message = self.write_verdict(address, task_id)
        if message is not None:
            self.send(self.key_of(address), message)
