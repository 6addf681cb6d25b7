"""Keeps the hidden states that this node's answers committed to, and opens what the beacon draws of them.

States are on disk before the receipt is, so a killed node can still open them. They go once no more checking can come: when
the answer's epoch is settled, or with the case that it is kept for. It knows nothing of models and judges nothing.
Invariant: nothing is opened before the value that draws it, so no opening helps anybody to choose what to commit to.
"""

from __future__ import annotations

from collections.abc import Collection

from paceline.base.draws import derive_seed
from paceline.base.errors import Invalid
from paceline.inference.trace import Trace, derive_draw
from paceline.ledger import beacon, suspicion
from paceline.ledger.channel_records import needs_payloads
from paceline.ledger.indices import is_paid
from paceline.ledger.sessions import SESSIONS, compute_task_id
from paceline.ledger.state import State
from paceline.ledger.tasks import GUILTY, LIFTED, TASKS, Task
from paceline.network.wire import PeerRequest
from paceline.node.answers.payloads import find_task, may_read
from paceline.node.context import Context
from paceline.node.home import write_whole
from paceline.protocol.codec import Record, decode
from paceline.protocol.fields import Digest
from paceline.protocol.messages import Voucher
from paceline.protocol.traces import encode_opening

MAX_REQUEST_BYTES = 64
TRUE, WRONG = "trace", "wrong"
"""Kinds of files: states of answers, and those that go with the wrong versions of forced errors."""


class OpeningRequest(Record, frozen=True):
    """Asks an executor to open the states of a task; `case` as for its payload."""

    task: Digest
    case: bool = False


class TraceKeeper:
    """Traces on disk, one file a task, named by task, session and index."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._folder = context.work_path / "traces"
        self._folder.mkdir(parents=True, exist_ok=True)

    def keep(self, voucher: Voucher, trace: Trace, kind: str = TRUE) -> bytes:
        """Store the states of an answer, or of its wrong version, before its receipt. Returns the root that commits to them."""
        task_id = compute_task_id(voucher.session, voucher.index)
        name = f"{task_id.hex()}-{voucher.session.hex()}-{voucher.index}.{kind}"
        write_whole(self._folder / name, trace.encode())
        return trace.compute_root()

    def sweep(self, state: State, waiting: Collection[bytes] = ()) -> None:
        """Drop the states of answers that nobody will check any more; those of `waiting` tasks stay."""
        for path in (*self._folder.glob(f"*.{TRUE}"), *self._folder.glob(f"*.{WRONG}")):
            task, session, index = path.stem.split("-")
            task_id = bytes.fromhex(task)
            kept = suspicion.get_kept(state, self._context.address, task_id) is not None
            if (
                not kept
                and task_id not in waiting
                and not is_wanted(state, task_id, bytes.fromhex(session), int(index))
            ):
                path.unlink()

    async def serve(self, request: PeerRequest) -> bytes:
        """The opening of one task's states.

        Errors: Invalid unknown-task, not-a-reader, not-drawn-yet or no-trace.
        """
        wanted = decode(OpeningRequest, request.body, limit_bytes=MAX_REQUEST_BYTES)
        state, task_id, me = self._context.chain.read(), wanted.task, self._context.address
        task = find_task(state, me, task_id, case=wanted.case)
        if task is None or task.executor != me:
            raise Invalid("unknown-task", "this node has no receipt for such a task")
        if not may_read(state, task, request.sender_address, case=wanted.case):
            raise Invalid("not-a-reader", "states tell of the text: only who may read the payload sees them")
        kinds = (TRUE,) if task.shown == LIFTED else (WRONG, TRUE)
        return await self._context.threads.run("check", self._open, task_id, get_draw_seed(state, task_id, task), kinds)

    def _open(self, task_id: bytes, seed: bytes, kinds: tuple[str, ...]) -> bytes:
        paths = (next(self._folder.glob(f"{task_id.hex()}-*.{kind}"), None) for kind in kinds)
        path = next((path for path in paths if path is not None), None)
        if path is None:
            raise Invalid("no-trace", "no states are kept for this task")
        trace = Trace.decode(path.read_bytes())
        tokens, layers, _ = trace.states.shape
        return encode_opening(trace.open(derive_draw(seed, tokens, layers)))


def is_wanted(state: State, task_id: bytes, session: bytes, index: int) -> bool:
    """True while the states of an answer may still have to be opened: a user may report one that passed its checks."""
    task = TASKS.get(state, task_id)
    if task is not None:
        return task.status != GUILTY
    if needs_payloads(state, session):
        return True
    # The receipt may still come, as long as the ledger takes any for the session.
    return not is_paid(state, session, index) and SESSIONS.get(state, session) is not None


def get_draw_seed(state: State, task_id: bytes, task: Task) -> bytes:
    """What draws layer, projection and positions of a task.

    Errors: Invalid not-drawn-yet while the beacon owes the value.
    """
    value = beacon.get_value(state, task.round_index)
    kept = suspicion.get_kept(state, task.executor, task_id)
    # A report had other states drawn than those that the kept value opens.
    if value is None and kept is not None and kept.task.round_index == task.round_index:
        value = kept.value
    if not value:
        raise Invalid("not-drawn-yet", "the beacon has not drawn this task, or no longer keeps its value")
    return derive_seed(value, "trace", task_id)
