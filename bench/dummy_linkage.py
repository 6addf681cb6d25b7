"""What the ledger tells of a relay's tasks: amounts, times and accounts, for a classifier that wants to find its dummies.

Simulated users and a relay's sampling (`dummy_traffic`) are played through the ledger itself, on the network without
processes of the tests: sessions, vouchers and receipts. The traffic says which are dummies; reveals and payouts are not played,
so what those would add to a linkage is not measured.
"""

from __future__ import annotations

import heapq
import math
import sys
from pathlib import Path
from random import Random

import msgspec
import numpy as np
from dummy_traffic import SHARING, Relay, Sent, Users

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "ledger"))

from chain_harness import PARAMS, Chain  # type: ignore[import-not-found]  # on the path since the line above
from dummy_classifier import Records, balance

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.economy.pay import compute_task_cost
from paceline.ledger.accounts import ACCOUNTS, get_account
from paceline.ledger.sessions import SESSIONS, compute_session_id, compute_task_id
from paceline.ledger.tasks import TASKS, Task
from paceline.protocol import messages as m
from paceline.protocol.openings import OpenSession
from paceline.protocol.params import DummyParams

RATE_PPM = 300_000
"""Ten times the network's, so that as many dummies need fewer tasks; the classes are balanced in any case."""
BLOCK_SECONDS = 8.0
TOKENS_PER_SECOND = 20.0
DEPOSIT = 2 * 10**11


class Player:
    """Plays requests as tasks of one relay, and keeps what the ledger shows."""

    def __init__(self) -> None:
        params = msgspec.structs.replace(
            PARAMS,
            epoch_blocks=100_000,
            session_blocks=50_000,
            check_blocks=2,
            dummies=DummyParams(rate_ppm=RATE_PPM, share_ppm=900_000),
        )
        self.chain = Chain(params=params)
        # Without the replica and the invariants of every block, which the tests look at.
        self.chain.block = lambda: self.chain.sequencer.produce_block(0)[1]
        self.chain.run_race([100] * 5)
        self._sessions: dict[int, bytes] = {}
        self._totals: dict[int, int] = {}
        self._began = self.chain.height

    def play(self, sent: list[Sent]) -> list[list[float]]:
        """The numbers of each task, in the order given."""
        coming: list[tuple[float, int, m.Receipt, AccountKey]] = []
        shown: dict[int, tuple[int, int, int]] = {}
        at = 0
        while at < len(sent) or coming:
            now = (self.chain.height - self._began) * BLOCK_SECONDS
            while at < len(sent) and sent[at].time <= now:
                heapq.heappush(coming, self._make(at, sent[at]))
                at += 1
            while coming and coming[0][0] <= now:
                _, place, receipt, executor = heapq.heappop(coming)
                self.chain.send(executor, m.SubmitReceipts((receipt,)))
                state = self.chain.state
                balance_now = get_account(state, self.chain.user.address).balance
                shown[place] = (len(shown), balance_now, len(ACCOUNTS.items(state)))
            self.chain.tick()
        return [self._describe(sent[place], shown[place]) for place in range(len(sent))]

    def _make(self, place: int, one: Sent) -> tuple[float, int, m.Receipt, AccountKey]:
        if one.session not in self._sessions:
            self._open(one.session)
        session = self._sessions[one.session]
        executor = self.chain.first_executor(session, one.index)
        price = self.chain.params.unit_price
        max_cost = compute_task_cost(one.prompt_tokens, one.request.max_tokens, price)
        self._totals[one.session] = self._totals.get(one.session, 0) + max_cost
        voucher = self.chain.voucher(
            session,
            one.index,
            executor,
            max_cost=max_cost,
            total=self._totals[one.session],
            prompt=one.request.compute_hash(),
        )
        written = min(one.request.max_tokens, count_written(one.text))
        payload = hash_parts("linkage-payload", place.to_bytes(8, "big"))
        receipt = m.Receipt(voucher, payload, one.prompt_tokens, written)
        return one.time + written / TOKENS_PER_SECOND, place, receipt, executor

    def _open(self, number: int) -> None:
        root = hash_parts("linkage-root", number.to_bytes(8, "big"))
        message = OpenSession(self.chain.keys[0].address, "test-model", DEPOSIT, root)
        digest = self.chain.send(self.chain.user, message)
        session = compute_session_id(self.chain.user.address, digest)
        self.chain.run_until(
            lambda: (found := SESSIONS.get(self.chain.state, session)) is not None and bool(found.seed)
        )
        self._sessions[number] = session

    def _describe(self, one: Sent, shown: tuple[int, int, int]) -> list[float]:
        state, session_id = self.chain.state, self._sessions[one.session]
        task = TASKS.get(state, compute_task_id(session_id, one.index))
        session = SESSIONS.get(state, session_id)
        assert task is not None and session is not None
        near = (max(0, one.index - 1), one.index + 1)
        neighbours = [TASKS.get(state, compute_task_id(session_id, index)) for index in near]
        order, balance_then, accounts_then = shown
        return [
            one.index,
            math.log(task.cost),
            task.prompt_tokens,
            task.completion_tokens,
            task.completion_tokens / one.request.max_tokens,
            compute_task_cost(one.prompt_tokens, one.request.max_tokens, 1),
            task.height - session.drawn_at,
            task.height,
            *(_gap(task, other) for other in neighbours),
            order - one.index,
            [key.address for key in self.chain.keys].index(task.executor),
            len(task.drawn),
            balance_then / 1e9,
            accounts_then,
            session.deposit / 1e9,
            task.prompt_hash[0],
            task.payload_hash[0],
        ]


def count_written(text: str) -> int:
    """Tokens of the answer to a text: the same for the same words, whoever asks."""
    return max(1, int(Random(text).lognormvariate(4.5, 0.8)))


def collect_ledger(dummies: int, seed: int) -> Records:
    """Ledger records of dummies and of as many other tasks, in the order of time."""
    relay, users = Relay(Random(seed), None, SHARING, RATE_PPM), Users(Random(seed + 1))
    sent: list[Sent] = []
    found = 0
    for one in relay.run(users):
        sent.append(one)
        found += one.is_dummy
        if found == dummies:
            break
    numbers = np.array(Player().play(sent), dtype=np.float32)
    labels = np.array([int(one.is_dummy) for one in sent])
    # No text is on the ledger.
    return balance(Records([""] * len(sent), numbers, labels), Random(seed))


def _gap(task: Task, other: Task | None) -> float:
    return -99.0 if other is None else float(other.height - task.height)
