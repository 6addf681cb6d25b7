"""Dummies on the network without processes: a session that promises prompts, its drawn indices, and what shows them."""

from __future__ import annotations

from random import Random

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger import dummies
from paceline.ledger.sessions import SESSIONS, compute_session_id, compute_task_id
from paceline.ledger.tasks import FINAL, TASKS
from paceline.node.dummies.plans import compute_point, make_entry, make_plan, split_amount
from paceline.protocol import messages as m
from paceline.protocol.dummies import LEAVES, Payout, RevealDummies

PROMPTS = tuple(hash_parts("test-dummy", bytes([place])) for place in range(LEAVES))
USER_PROMPT = hash_parts("test-user-prompt")


class DummySession:
    """One session of a chain's first node as relay, with dummies at the drawn indices when they are wanted."""

    def __init__(self, chain, *, deposit=10**12, nonce=b"n" * 32):
        self.chain = chain
        self.relay = chain.keys[0]
        self.key = chain.group_keys[self.relay.address]
        self.plan = make_plan(PROMPTS, nonce)
        self.places: dict[int, int] = {}
        root = self.plan.compute_root()
        digest = chain.send(chain.user, m.OpenSession(self.relay.address, "test-model", deposit, root))
        self.session_id = compute_session_id(chain.user.address, digest)
        chain.run_until(lambda: (found := SESSIONS.get(chain.state, self.session_id)) is not None and bool(found.seed))
        self.session = SESSIONS.get(chain.state, self.session_id)

    def is_drawn(self, index):
        point = compute_point(self.key, self.chain.application.chain_id, self.session_id, self.session, index)
        return dummies.is_drawn(point, self.chain.params)

    def drawn(self, count):
        return [index for index in range(count) if self.is_drawn(index)]

    def answer(self, index, *, dummy=None, prompt=10, completion=20):
        """The drawn node answers: a dummy when the index is drawn, unless told otherwise. Returns its task."""
        dummy = self.is_drawn(index) if dummy is None else dummy
        if dummy:
            self.places[index] = len(self.places)
        digest = PROMPTS[self.places[index]] if dummy else USER_PROMPT
        chain, executor = self.chain, self.chain.first_executor(self.session_id, index)
        voucher = chain.voucher(self.session_id, index, executor, max_cost=10**9, prompt=digest)
        payload = hash_parts("payload", self.session_id, index.to_bytes(4, "big"))
        chain.send(executor, m.SubmitReceipts((m.Receipt(voucher, payload, prompt, completion),)))
        chain.tick()
        return compute_task_id(self.session_id, index)

    def answer_all(self, count):
        """Indices in order, until all are final."""
        tasks = [self.answer(index) for index in range(count)]
        self.wait_final(tasks)
        return tasks

    def wait_final(self, tasks):
        self.chain.run_until(lambda: all(TASKS.get(self.chain.state, task).status == FINAL for task in tasks))

    def entry(self, index, *, place=None, key=None):
        return make_entry(
            self.plan,
            key or self.key,
            self.chain.application.chain_id,
            self.session_id,
            seed=self.session.seed,
            index=index,
            place=self.places.get(index, 0) if place is None else place,
        )

    def cost(self, indices):
        return sum(TASKS.get(self.chain.state, compute_task_id(self.session_id, i)).cost for i in indices)

    def payouts(self, total, tag=0):
        parts = split_amount(total, Random(tag))
        keys = [AccountKey.from_secret(hash_parts("fresh", bytes([tag, part]))) for part in range(len(parts))]
        return tuple(Payout(key.address, amount) for key, amount in zip(keys, parts, strict=True))

    def reveal(self, indices, *, entries=None, payouts=None):
        entries = entries or tuple(self.entry(index) for index in indices)
        return RevealDummies(self.session_id, entries, payouts or self.payouts(self.cost(indices)))
