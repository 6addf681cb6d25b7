"""A ledger state with a network, and a context without sockets, for the tests of single roles."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import msgspec

from paceline.base.keys import AccountKey
from paceline.ledger import accounts, beacon, groups, nodes, sessions, tasks
from paceline.ledger.state import State
from paceline.node.answers.serving import Serving
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.founding import Founder, Founding, build_genesis
from paceline.node.metrics import Metrics
from paceline.node.tracing import Tracing
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Request, TaskOrder, Turn
from paceline.protocol.genesis import GenesisAccount
from paceline.protocol.messages import Receipt, Skip, Voucher
from paceline.protocol.openings import OpenSession
from paceline.protocol.params import NICOIN_PER_COIN, TINY
from paceline.store.blobs import BlobStore
from paceline.store.state import MemoryStateStore

CHAIN_ID = "roles-1"
MODEL = "smollm2-135m-instruct"
KEYS = [AccountKey.from_secret(bytes([number]) * 32) for number in range(1, 6)]
RELAY = KEYS[0]
USER = AccountKey.from_secret(b"u" * 32)
FUNDS = 1_000 * NICOIN_PER_COIN
REQUEST = AnswerRequest(
    model=MODEL,
    prompt=ChatPrompt((Turn("user", "hi"),)),
    max_tokens=8,
    temperature_ppm=0,
    top_p_ppm=1_000_000,
    stop=(),
    user_seed=None,
)
GENESIS = build_genesis(
    Founding(
        network="roles",
        params=TINY,
        founders=[
            Founder(
                name=f"node-{number}",
                key=key,
                consensus_key=key.public_key,
                ceremony_key=CeremonyKey(key.address, key.secret),
                weight=1_000,
                serves=(MODEL,),
            )
            for number, key in enumerate(KEYS, 1)
        ],
        accounts=(GenesisAccount(USER.address, FUNDS),),
        bootstrap=bytes(32),
    )
)


def make_state(height: int = 10) -> State:
    """A network with equal weights and a user with coins."""
    state = State(MemoryStateStore(), height=height)
    accounts.apply_genesis(state, GENESIS)
    nodes.apply_genesis(state, GENESIS)
    groups.apply_genesis(state, GENESIS)
    beacon.apply_genesis(state, TINY, GENESIS.beacon)
    return state


def open_session(state: State, *, mark: bytes = b"t", drawn: bool = True) -> bytes:
    """Open the user's session; with its seed unless the beacon shall still owe it."""
    transaction = mark * 32
    message = OpenSession(RELAY.address, MODEL, 100 * NICOIN_PER_COIN)
    sessions.apply_open(state, TINY, USER.address, USER.public_key, transaction, message)
    session_id = sessions.compute_session_id(USER.address, transaction)
    if drawn:
        change_session(state, session_id, seed=b"s" * 32, version=nodes.get_version(state), drawn_at=state.height)
        sessions.DRAWING.delete(state, session_id)
    return session_id


def change_session(state: State, session_id: bytes, **changes) -> None:
    session = sessions.SESSIONS.get(state, session_id)
    sessions.SESSIONS.put(state, session_id, msgspec.structs.replace(session, **changes))


def get_order(state: State, session_id: bytes, index: int = 0) -> list[bytes]:
    """Drawn executors of a task."""
    session = sessions.SESSIONS.get(state, session_id)
    return sessions.get_executors(state, session, sessions.compute_task_id(session_id, index))


def find_key(address: bytes) -> AccountKey:
    return next(key for key in KEYS if key.address == address)


def make_order(
    session_id: bytes, executor: bytes, *, signer: AccountKey = USER, request: Request = REQUEST, **changes
) -> TaskOrder:
    """A signed order; `changes` are made before the signature."""
    fields = {
        "session": session_id,
        "index": 0,
        "executor": executor,
        "prompt_hash": request.compute_hash(),
        "max_cost": 10**9,
        "total": 10**9,
        "signature": bytes(64),
        **changes,
    }
    voucher = Voucher(**fields)
    signature = signer.sign(voucher.signed_bytes(CHAIN_ID))
    return TaskOrder(msgspec.structs.replace(voucher, signature=signature), request)


def make_late_mark(state: State, session_id: bytes, address: bytes, index: int = 0) -> Skip:
    """The relay's mark against a drawn node."""
    unsigned = Skip(address, "late", state.height, bytes(64))
    signature = RELAY.sign(unsigned.signed_bytes(CHAIN_ID, session_id, index))
    return msgspec.structs.replace(unsigned, signature=signature)


class AnsweredTask:
    """The first task of a user's session with its receipt on the ledger, and one node that is drawn to check it."""

    def __init__(self) -> None:
        self.state = make_state()
        self.session_id = self.open_session()
        self.task_id = sessions.compute_task_id(self.session_id, 0)
        self.executor = find_key(get_order(self.state, self.session_id)[0])
        self.others = [key for key in KEYS if key not in (self.executor, RELAY)]
        self.drawn = self.others[0]

    def open_session(self) -> bytes:
        return open_session(self.state)

    def answer(self, payload_hash: bytes = bytes(32), completion_tokens: int = 4) -> None:
        """Commit the receipt; the checker is drawn at once."""
        voucher = make_order(self.session_id, self.executor.address).voucher
        receipt = Receipt(voucher, payload_hash, 3, completion_tokens)
        tasks.apply_receipts(self.state, TINY, CHAIN_ID, self.executor.address, (receipt,), 0)
        self.change(status=tasks.CHECKING, drawn=(self.drawn.address,))

    @property
    def task(self) -> tasks.Task:
        found = tasks.TASKS.get(self.state, self.task_id)
        assert found is not None
        return found

    def change(self, **changes) -> None:
        tasks.TASKS.put(self.state, self.task_id, msgspec.structs.replace(self.task, **changes))


class FakeChain:
    """Committed state that a test moves by hand, and a record of what was sent."""

    chain_id = CHAIN_ID

    def __init__(self, state: State) -> None:
        self.state = state
        self.sent: list[object] = []
        self.refusals: list[Exception] = []
        self.loads: dict[bytes, object] = {}
        self.coming: list[object] = []
        """What happens at each next height."""

    @property
    def height(self) -> int:
        return self.state.height

    def read(self) -> State:
        return self.state

    def get_load(self, address: bytes):
        return self.loads.get(address)

    async def wait_height(self, height: int, timeout_seconds: float) -> bool:
        if not self.coming:
            return False
        self.coming.pop(0)(self.state)
        self.state.height = height
        return True

    async def send(self, message, *, key=None):
        self.sent.append(message)
        await asyncio.sleep(0)
        if self.refusals and (refusal := self.refusals.pop(0)) is not None:
            raise refusal
        return b"h" * 32, None


class CollectedDuties:
    """Keeps what was started; a test runs it when it likes."""

    def __init__(self) -> None:
        self.started: dict[object, object] = {}

    def start(self, key, work) -> None:
        self.started.setdefault(key, work)

    def run_all(self) -> None:
        started, self.started = self.started, {}
        for work in started.values():
            asyncio.run(work())


def make_group_key(key: AccountKey) -> CeremonyKey:
    """The group key of a node of the network."""
    return CeremonyKey(key.address, key.secret)


def make_context(state: State, key: AccountKey, folder: Path, **changes) -> SimpleNamespace:
    """A context of one node over a state."""
    parts = {
        "settings": SimpleNamespace(cheat="", serves=True, name="node", parallel_answers=1, idle="ready"),
        "key": key,
        "address": key.address,
        "params": TINY,
        "chain": FakeChain(state),
        "blobs": BlobStore(folder / "blobs"),
        "serving": Serving(),
        "duties": CollectedDuties(),
        "metrics": Metrics(),
        "tracing": Tracing(),
        "work_path": folder / "work",
        **changes,
    }
    parts["work_path"].mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(**parts)
