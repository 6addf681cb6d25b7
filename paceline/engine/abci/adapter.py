"""The Application behind ABCI 2.0: translates messages, holds no rule of its own.

A refusal of the ledger is an answer with a code. What the engine may never be wrong about (a block that does not follow,
another chain) raises, and the node stops before it commits anything. It knows nothing of sockets and disks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from paceline.base.errors import InvalidBlock
from paceline.engine.abci import schema
from paceline.engine.light_state import STATE_PROOF, STATE_QUERY
from paceline.ledger.application import Application, BlockResult, Result
from paceline.ledger.evidence import BlockEvidence, Misbehaviour
from paceline.ledger.state import Event
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.stores import StateStore

APP_VERSION = 1
EVIDENCE_BLOCKS = 100_000
EVIDENCE_SECONDS = 48 * 3600
MAX_BLOCK_BYTES = 4 * 1024 * 1024
MAX_EVIDENCE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Committed:
    """A block that has just become final."""

    result: BlockResult
    transactions: tuple[bytes, ...]
    unix_milliseconds: int


class ProvingStore(StateStore, Protocol):
    """A state store that proves what it holds."""

    def prove(self, key: bytes) -> object:
        """Evidence under the app hash of a key's value or absence; encodable."""


class SnapshotHost(Protocol):
    """Who makes, serves and takes snapshots of the store. All values are plain."""

    def list_snapshots(self) -> Sequence[Any]:
        """What this node can serve, as `schema.Snapshot`."""

    def load_chunk(self, height: int, form: int, chunk: int) -> bytes:
        """One chunk; empty when it is not here."""

    def offer(self, snapshot: Any, app_hash: bytes) -> int:
        """An OFFER_ answer."""

    def apply_chunk(self, index: int, chunk: bytes) -> int:
        """A CHUNK_ answer; the last chunk installs the state."""


class AbciAdapter:
    """One Application for one engine. Its `handle` is what an AbciServer serves."""

    def __init__(
        self,
        application: Application,
        store: ProvingStore,
        *,
        on_commit: Callable[[Committed], int],
        snapshots: SnapshotHost | None = None,
    ) -> None:
        """`on_commit` hears of every final block and returns the height below which the engine may forget blocks."""
        self._application = application
        self._store = store
        self._on_commit = on_commit
        self._snapshots = snapshots
        self._finalized: Committed | None = None
        self._verbs: dict[str, Callable[[Any], Any]] = {
            "info": self._info,
            "init_chain": self._init_chain,
            "query": self._query,
            "check_tx": self._check_tx,
            "commit": self._commit,
            "prepare_proposal": self._prepare_proposal,
            "process_proposal": self._process_proposal,
            "finalize_block": self._finalize_block,
            "list_snapshots": self._list_snapshots,
            "offer_snapshot": self._offer_snapshot,
            "load_snapshot_chunk": self._load_snapshot_chunk,
            "apply_snapshot_chunk": self._apply_snapshot_chunk,
            "extend_vote": self._refuse_extension,
            "verify_vote_extension": self._refuse_extension,
        }

    def handle(self, verb: str, request: Any) -> Any:
        """The response body to a request body."""
        return self._verbs[verb](request)

    def _info(self, _request: Any) -> Any:
        info = self._application.info()
        return _make(
            "ResponseInfo",
            data=info.chain_id,
            version="paceline",
            app_version=APP_VERSION,
            last_block_height=info.height,
            last_block_app_hash=info.app_hash if info.height else b"",
        )

    def _init_chain(self, request: Any) -> Any:
        application = self._application
        if request.chain_id != application.chain_id:
            raise InvalidBlock("wrong-chain", f"the engine starts {request.chain_id}, this is {application.chain_id}")
        if request.initial_height != 1:
            raise InvalidBlock("initial-height", f"chains begin at height 1, not {request.initial_height}")
        return _make(
            "ResponseInitChain",
            validators=[_make_update(key, power) for key, power in application.get_validators()],
            app_hash=application.info().app_hash,
        )

    def _query(self, request: Any) -> Any:
        """`path` /state: the value under the key in `data`, with its proof under the app hash when asked for."""
        info = self._application.info()
        if request.path != STATE_QUERY:
            log = f"unknown path; ask {STATE_QUERY}"
            return _make("ResponseQuery", code=schema.CODE_REFUSED, log=log, height=info.height)
        if request.height not in {0, info.height}:
            log = f"only the last height is kept: {info.height}"
            return _make("ResponseQuery", code=schema.CODE_REFUSED, log=log, height=info.height)
        value = self._store.get(request.data)
        response = _make("ResponseQuery", key=request.data, value=value or b"", height=info.height)
        if request.prove:
            proof = encode(self._store.prove(request.data))
            response.proof_ops.ops.add(type=STATE_PROOF, key=request.data, data=proof)
        return response

    def _check_tx(self, request: Any) -> Any:
        result = self._application.check_transaction(request.tx)
        code = schema.CODE_OK if result.code == "ok" else schema.CODE_REFUSED
        return _make("ResponseCheckTx", code=code, codespace=result.code, log=result.message)

    def _prepare_proposal(self, request: Any) -> Any:
        chosen = self._application.prepare_proposal(list(request.txs), request.max_tx_bytes)
        return _make("ResponsePrepareProposal", txs=chosen)

    def _process_proposal(self, request: Any) -> Any:
        fine = self._application.process_proposal(list(request.txs))
        return _make("ResponseProcessProposal", status=schema.PROPOSAL_ACCEPT if fine else schema.PROPOSAL_REJECT)

    def _finalize_block(self, request: Any) -> Any:
        height = self._application.info().height
        if request.height != height + 1:
            raise InvalidBlock("wrong-height", f"the engine finalizes {request.height}, {height + 1} is next")
        transactions = tuple(request.txs)
        result = self._application.finalize_block(request.height, list(transactions), _read_evidence(request))
        milliseconds = request.time.seconds * 1_000 + request.time.nanos // 1_000_000
        self._finalized = Committed(result, transactions, milliseconds)
        return _make(
            "ResponseFinalizeBlock",
            tx_results=[_make_result(outcome) for outcome in result.results],
            validator_updates=[_make_update(key, power) for key, power in result.validator_updates],
            events=[_make_event(event) for event in result.events],
            app_hash=result.app_hash,
        )

    def _commit(self, _request: Any) -> Any:
        finalized = self._finalized
        if finalized is None:
            raise InvalidBlock("nothing-finalized", "Commit needs a finalized block")
        note = encode((finalized.unix_milliseconds, len(finalized.transactions)))
        self._application.commit(finalized.result.height, note)
        self._finalized = None
        return _make("ResponseCommit", retain_height=self._on_commit(finalized))

    def _list_snapshots(self, _request: Any) -> Any:
        found = self._snapshots.list_snapshots() if self._snapshots else ()
        return _make("ResponseListSnapshots", snapshots=found)

    def _offer_snapshot(self, request: Any) -> Any:
        result = schema.OFFER_ABORT
        if self._snapshots is not None and request.HasField("snapshot"):
            result = self._snapshots.offer(request.snapshot, request.app_hash)
        return _make("ResponseOfferSnapshot", result=result)

    def _load_snapshot_chunk(self, request: Any) -> Any:
        chunk = self._snapshots.load_chunk(request.height, request.format, request.chunk) if self._snapshots else b""
        return _make("ResponseLoadSnapshotChunk", chunk=chunk)

    def _apply_snapshot_chunk(self, request: Any) -> Any:
        if self._snapshots is None:
            return _make("ResponseApplySnapshotChunk", result=schema.CHUNK_ABORT)
        result = self._snapshots.apply_chunk(request.index, request.chunk)
        response = _make("ResponseApplySnapshotChunk", result=result)
        if result == schema.CHUNK_RETRY:
            # The sender of a wrong chunk is not asked again; the chunk is.
            response.refetch_chunks.append(request.index)
            if request.sender:
                response.reject_senders.append(request.sender)
        return response

    def _refuse_extension(self, _request: Any) -> Any:
        raise InvalidBlock("no-extensions", "vote extensions are off in this network; genesis must not enable them")


def decode_note(data: bytes) -> tuple[int, int]:
    """(unix milliseconds, number of transactions) of a block that this adapter committed."""
    note: tuple[int, int] = decode_own(tuple[int, int], data)
    return note


def _make(name: str, **fields: Any) -> Any:
    return schema.MESSAGES[name](**fields)


def _make_update(consensus_key: bytes, power: int) -> Any:
    return _make("ValidatorUpdate", pub_key=_make("PublicKey", ed25519=consensus_key), power=power)


def _make_result(result: Result) -> Any:
    # Of these fields only the code is hashed into the next header; texts are for people.
    code = schema.CODE_OK if result.code == "ok" else schema.CODE_REFUSED
    events = [_make_event(event) for event in result.events]
    return _make("ExecTxResult", code=code, codespace=result.code, log=result.message, events=events)


def _make_event(event: Event) -> Any:
    attributes = [_make("EventAttribute", key=key, value=str(value)) for key, value in event.attributes.items()]
    return _make("Event", type=event.kind, attributes=attributes)


def _read_evidence(request: Any) -> BlockEvidence:
    votes = request.decided_last_commit.votes
    absent = tuple(vote.validator.address for vote in votes if vote.block_id_flag == schema.FLAG_ABSENT)
    misbehaviours = tuple(
        Misbehaviour(entry.validator.address, entry.height)
        for entry in request.misbehavior
        if entry.type in {schema.DUPLICATE_VOTE, schema.LIGHT_CLIENT_ATTACK}
    )
    return BlockEvidence(absent, misbehaviours)
