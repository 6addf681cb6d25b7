"""Payloads of answers: locked at rest at their executor, and handed to those whom the ledger names, sealed to each.

Who may read: the drawn checkers, the relay that brought the question, everybody with weight once the task is disputed, and who
judges its suspected executor.
It refuses to know what an answer says. Invariant: a payload lies on no other disk than its executor's, is there as long as the
ledger knows the task or its receipt waits, and goes when both are over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from paceline.base.errors import Invalid, TransportError, WorkError
from paceline.base.hashing import hash_blob, hash_parts
from paceline.base.keys import AccountKey, verify_signature
from paceline.ledger import nodes, suspicion, traps
from paceline.ledger.state import State
from paceline.ledger.tasks import DISPUTED, LIFTED, TASKS, Task
from paceline.network.sealing import Lock, seal, unseal
from paceline.network.wire import PeerRequest
from paceline.node.context import Context
from paceline.node.home import write_whole
from paceline.protocol.answers import MAX_PAYLOAD_BYTES
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.fields import Digest, SignatureBytes
from paceline.protocol.traps import NO_SEAL

PATH = "payload"
MAX_REQUEST_BYTES = 64
SWEEP_BLOCKS = 16
TRUE, WRONG = "payload", "wrong"
"""Kinds of files: payloads of true answers, and the wrong versions of forced errors."""


class PayloadRequest(Record, frozen=True):
    """Asks an executor for the payload of a task: the one its receipt names or, for its relay, that of the true answer."""

    task: Digest
    answer: bool = False
    case: bool = False
    """Asks as a judge of the executor's case: for the task as it is kept for that, not as it stands now."""


class PayloadReply(Record, frozen=True, kw_only=True):
    """The payload with the executor's signature over what its receipt says, for those who keep a receipt of their own."""

    payload: bytes
    signature: SignatureBytes
    traceparent: str = ""
    salt: Digest = NO_SEAL
    """Opens the receipt's seal over the true answer, when that was asked for."""


class PayloadVault:
    """The payloads of one executor, a locked file each."""

    def __init__(self, folder: Path, key: AccountKey) -> None:
        self._folder = folder
        self._lock = Lock(key, "payloads")
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, task_id: bytes, payload: bytes) -> bytes:
        """Keep a payload; returns its hash. Safe on every thread."""
        write_whole(self._locate(task_id), self._lock.close(payload), mode=0o600)
        return hash_blob(payload)

    def put_wrong(self, task_id: bytes, payload: bytes) -> bytes:
        """Keep beside it the wrong version of a forced error; returns its hash."""
        write_whole(self._locate(task_id, WRONG), self._lock.close(payload), mode=0o600)
        return hash_blob(payload)

    def get_shown(self, task_id: bytes, task: Task) -> bytes:
        """What the checkers of a task are shown. Errors: WorkError, as `get`."""
        is_wrong = task.shown != LIFTED and self._locate(task_id, WRONG).exists()
        return self._read(self._locate(task_id, WRONG if is_wrong else TRUE))

    def get(self, task_id: bytes) -> bytes:
        """The payload of the true answer. Errors: WorkError when it is not here, or damaged."""
        return self._read(self._locate(task_id))

    def sweep(self, state: State, owner: bytes, kept: Collection[bytes]) -> None:
        """Forget what neither the ledger nor a receipt of ours needs any more; `kept` stays whatever the ledger says."""
        for path in (*self._folder.glob(f"*.{TRUE}"), *self._folder.glob(f"*.{WRONG}")):
            task_id = bytes.fromhex(path.stem)
            if task_id not in kept and find_task(state, owner, task_id) is None:
                path.unlink()

    def _read(self, path: Path) -> bytes:
        try:
            data = path.read_bytes()
        except OSError:
            raise WorkError(f"the payload of task {path.stem[:12]} is not here") from None
        return self._lock.open(data)

    def _locate(self, task_id: bytes, kind: str = TRUE) -> Path:
        return self._folder / f"{task_id.hex()}.{kind}"


def hand_out(
    context: Context, vault: PayloadVault, request: PeerRequest, traces: Mapping[bytes, str] | None = None
) -> bytes:
    """The executor's reply to somebody who may read, sealed to its key.

    Errors: Invalid unknown-task, not-a-reader; WorkError when the payload is lost.
    """
    wanted = decode(PayloadRequest, request.body, limit_bytes=MAX_REQUEST_BYTES)
    task_id = wanted.task
    state = context.chain.read()
    task = find_task(state, context.address, task_id, case=wanted.case)
    if task is None or task.executor != context.address:
        raise Invalid("unknown-task", "this node answered no open task of this id")
    if not may_read(state, task, request.sender_address, case=wanted.case):
        raise Invalid("not-a-reader", "neither drawn to check this task, nor its relay, nor is it disputed")
    if wanted.answer and request.sender_address != task.relay:
        # Beside the shown one it would tell a checker of forced errors.
        raise Invalid("not-a-reader", "only the relay has the true answer already")
    payload = vault.get(task_id) if wanted.answer else vault.get_shown(task_id, task)
    reply = PayloadReply(
        payload=payload,
        signature=context.key.sign(statement_bytes(context.chain.chain_id, task_id, task, hash_blob(payload))),
        traceparent=(traces or {}).get(task_id, ""),
        salt=derive_salt(context.key, task_id) if wanted.answer else NO_SEAL,
    )
    return seal(request.sender, encode(reply))


def find_task(state: State, executor: bytes, task_id: bytes, *, case: bool = False) -> Task | None:
    """A task as it stands or, with `case` or when it is settled and gone, as it is kept for its executor's case.

    The two differ after a report: checkers are drawn anew, and what they are shown of a forced error is another payload.
    """
    task = None if case else TASKS.get(state, task_id)
    if task is not None:
        return task
    kept = suspicion.get_kept(state, executor, task_id)
    return kept.task if kept is not None else None


def may_read(state: State, task: Task, address: bytes, *, case: bool = False) -> bool:
    """True for whoever the ledger names as a reader of this task's payload, or with `case` as a judge of its executor."""
    if case:
        return suspicion.may_judge(state, task.executor, address)
    if address in task.drawn or address == task.relay:
        return True
    return task.status == DISPUTED and address in nodes.get_weights(state)


async def request_payload(
    context: Context, task_id: bytes, task: Task, *, answer: bool = False, case: bool = False
) -> PayloadReply:
    """The payload that hashes to what the receipt says, from its executor; with `answer` the one that its seal is over.

    Errors: TransportError when it is not handed out, whatever the executor says instead.
    """
    try:
        name = context.peers.name_of(task.executor)
        sealed = await context.peers.request(name, PATH, encode(PayloadRequest(task_id, answer, case)))
        reply = decode(PayloadReply, unseal(context.key, sealed), limit_bytes=MAX_PAYLOAD_BYTES + 1024, error=Invalid)
    except (Invalid, KeyError) as problem:
        raise TransportError(f"the payload was not handed out: {problem}") from None
    digest = hash_blob(reply.payload)
    if not (traps.is_answer(task, digest, reply.salt) if answer else digest == task.payload_hash):
        raise TransportError("what was handed out does not hash to the receipt's payload")
    return reply


def derive_salt(key: AccountKey, task_id: bytes) -> bytes:
    """The salt of a receipt's seal: nobody else can guess it, and a restarted node knows it again."""
    return hash_parts("answer-salt", key.secret, task_id)


def statement_bytes(chain_id: str, task_id: bytes, task: Task, payload_hash: bytes) -> bytes:
    """What an executor signs for a user: this payload is my answer to this prompt under this task."""
    counts = (task.prompt_tokens.to_bytes(8, "big"), task.completion_tokens.to_bytes(8, "big"))
    parts = (chain_id.encode(), task_id, task.prompt_hash, payload_hash, *counts)
    return b"paceline-answer" + hash_parts("answer-statement", *parts)


def verify_statement(
    public_key: bytes, chain_id: str, task_id: bytes, task: Task, payload_hash: bytes, signature: bytes
) -> bool:
    """True when the executor of this key signed for this payload of the task."""
    return verify_signature(public_key, statement_bytes(chain_id, task_id, task, payload_hash), signature)
