"""A stranger who follows a running network: fetches its blocks with a key of its own and replays every one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from paceline.base.errors import TransportError
from paceline.base.keys import AccountKey, compute_address
from paceline.economy.issuance import Issued
from paceline.economy.pay import compute_pay
from paceline.economy.supply import TOTAL_SUPPLY
from paceline.engine.blocks import decode_block
from paceline.engine.solo import Replica
from paceline.ledger import clock, nodes, training
from paceline.ledger.accounts import RESERVE, compute_supply, get_account
from paceline.ledger.application import Application
from paceline.ledger.invariants import find_violations
from paceline.ledger.issuance import get_issued
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.ledger.state import Event, State
from paceline.ledger.tasks import FINAL, OPEN_TASKS, TASKS, Task, get_checkers
from paceline.network.client import Peer, PeerClient
from paceline.node.chains.solo import BlocksRequest
from paceline.node.home import Home
from paceline.protocol.codec import decode, encode
from paceline.protocol.genesis import Genesis
from paceline.protocol.messages import ACCEPTED, SubmitReceipts
from paceline.protocol.transactions import decode_transaction
from paceline.store.state import MemoryStateStore

STRANGER = AccountKey.from_secret(b"stranger".ljust(32, b"."))
FOLLOW_SECONDS = 180.0
MAX_REPLY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Owed:
    """What an epoch owes just before it settles, by the records of its work alone."""

    height: int
    work: dict[bytes, int]
    """What tasks and updates earned each node, before any criterion."""
    fees: int
    """What these tasks and updates cost."""
    task_fees: int
    """What the tasks alone cost."""
    issued: Issued
    nodes: dict[bytes, nodes.Node]
    reserve: int
    open_tasks: int


@dataclass
class Observer:
    """Replays the chain of a network from genesis; knows only genesis and where the nodes listen."""

    genesis: Genesis
    urls: dict[str, str]
    paid: dict[bytes, int] = field(default_factory=dict)
    """How often each task's receipt was executed."""
    charged: dict[bytes, int] = field(default_factory=dict)
    """What each account ever paid for indices that stayed unused."""
    owners: dict[str, bytes] = field(default_factory=dict)
    """Who opened each session."""
    owed: dict[int, Owed] = field(default_factory=dict)
    """By epoch."""

    def __post_init__(self) -> None:
        store = MemoryStateStore()
        self.replica = Replica(Application(self.genesis, store), store)
        self.addresses = {node.name: compute_address(node.public_key) for node in self.genesis.nodes}

    @property
    def chain_id(self) -> str:
        return self.replica.application.chain_id

    @property
    def params(self):
        return self.genesis.params

    def ask(self, name: str, path: str, body: bytes, *, key: AccountKey = STRANGER, chain_id: str = "") -> bytes:
        """One signed request to a node."""

        async def call() -> bytes:
            async with PeerClient(key, chain_id or self.chain_id) as client:
                return await client.request(Peer(self.urls[name], self.addresses[name]), path, body)

        return asyncio.run(call())

    def fetch(self, name: str = "node-1") -> None:
        """Take the blocks that a node has next; a node waits up to a second for one."""
        request = encode(BlocksRequest(self.replica.height + 1, b"", 0))
        reply = self.ask(name, "blocks", request)
        for data in decode(list[bytes], reply, limit_bytes=MAX_REPLY_BYTES):
            self.apply(data)

    def has_block(self, name: str, height: int) -> bool:
        """True when a node answers and holds the block of a height."""
        try:
            reply = self.ask(name, "blocks", encode(BlocksRequest(height, b"", 0)))
        except TransportError:
            return False
        return bool(decode(list[bytes], reply, limit_bytes=MAX_REPLY_BYTES))

    def apply(self, data: bytes) -> None:
        """Replay one block: signature, every transaction, app hash."""
        height = self.replica.height + 1
        if clock.is_last(self.params, height):
            self.owed[clock.compute_epoch(self.params, height)] = self._compute_owed(height)
        result = self.replica.apply_block(data)
        self._note_events(result.events)
        for transaction, outcome in zip(decode_block(data).transactions, result.results, strict=True):
            message = decode_transaction(transaction)[1].message
            if outcome.code == "ok" and isinstance(message, SubmitReceipts):
                for receipt in message.receipts:
                    task_id = compute_task_id(receipt.voucher.session, receipt.voucher.index)
                    self.paid[task_id] = self.paid.get(task_id, 0) + 1

    def _note_events(self, events: Iterable[Event]) -> None:
        for event in events:
            facts = event.attributes
            if event.kind == "session-open":
                self.owners[str(facts["session"])] = bytes.fromhex(str(facts["owner"]))
            elif event.kind == "unused-index":
                owner = self.owners[str(facts["session"])]
                self.charged[owner] = self.charged.get(owner, 0) + int(facts["charge"])

    def _compute_owed(self, height: int) -> Owed:
        state, fund_ppm = self.read(), self.params.fund_ppm
        works = [
            (task.executor, task.cost, get_checkers(task)) for _, task in TASKS.items(state) if task.status == FINAL
        ]
        task_fees = sum(fee for _, fee, _ in works)
        for key, update in training.UPDATES.items(state):
            checkers = [v.voter for v in update.votes if v.voter in update.auditors and v.outcome == ACCEPTED]
            works.append((key[training.ID_BYTES + 4 :], update.pay, checkers))
        work: dict[bytes, int] = {}
        for worker, fee, checkers in works:
            pay = compute_pay(fee, checkers, fund_ppm)
            for address, amount in ((worker, pay.worker), *pay.checkers):
                work[address] = work.get(address, 0) + amount
        return Owed(
            height=height,
            work=work,
            fees=sum(fee for _, fee, _ in works),
            task_fees=task_fees,
            issued=get_issued(state),
            nodes=dict(nodes.NODES.items(state)),
            reserve=get_account(state, RESERVE).balance,
            # Marked ones fill idle time at any height and hold no coin.
            open_tasks=sum(not TASKS.get(state, task_id).is_marked for task_id, _ in OPEN_TASKS.items(state)),
        )

    def catch_up(self, height: int) -> State:
        """Follow to a height."""
        return self.follow(lambda state: state.height >= height)

    def follow(self, ready: Callable[[State], object], seconds: float = FOLLOW_SECONDS) -> State:
        """Follow until committed state satisfies `ready`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.read()
            if state.height and ready(state):
                return state
            self.fetch()
        raise AssertionError(f"nothing of the kind up to height {self.replica.height}")

    def read(self) -> State:
        """Committed state."""
        return self.replica.application.read()

    def task(self, task_id: str) -> Task:
        """A task by its hex id, as soon as its receipt is on the ledger."""
        digest = bytes.fromhex(task_id)
        state = self.follow(lambda state: TASKS.get(state, digest) is not None)
        task = TASKS.get(state, digest)
        assert task is not None
        return task

    def holdings(self, owner: bytes) -> int:
        """What an account holds, with what still waits in its sessions."""
        state = self.read()
        waiting = sum(session.left for _, session in SESSIONS.items(state) if session.owner == owner)
        return get_account(state, owner).balance + waiting

    def find_problems(self) -> list[str]:
        """Everything that must never be: broken sums, coins made or lost, tasks paid twice."""
        state = self.read()
        return list(self._find_problems(state))

    def _find_problems(self, state: State) -> Iterator[str]:
        yield from find_violations(state, self.params)
        if compute_supply(state) != TOTAL_SUPPLY:
            yield f"supply {compute_supply(state)}"
        yield from (f"task {task.hex()} paid {times} times" for task, times in self.paid.items() if times > 1)


def observe(home: Home) -> Observer:
    """An observer of what runs in a home."""
    running = home.load_running()
    assert running is not None
    return Observer(home.load_genesis(), {name: f"http://127.0.0.1:{port}" for name, port in running.ports.items()})
