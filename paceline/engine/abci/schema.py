"""ABCI 2.0 messages as a table of field numbers, turned into protobuf classes when this module is loaded.

Only what goes over the wire is named: unknown fields are skipped by protobuf itself, so the schemas of CometBFT 0.38,
0.39 and 0.40 are all read by this one. It knows nothing of sockets or of what the messages mean.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_PACKAGE = "paceline.abci"
_SCALARS = {
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}

# One line a message: its name, then `type name number`; `*` repeats a field. Enumerations travel as int32.
_TABLE = """
Timestamp: int64 seconds 1, int32 nanos 2
BlockParams: int64 max_bytes 1, int64 max_gas 2
Duration: int64 seconds 1, int32 nanos 2
EvidenceParams: int64 max_age_num_blocks 1, Duration max_age_duration 2, int64 max_bytes 3
ValidatorParams: string* pub_key_types 1
VersionParams: uint64 app 1
AbciParams: int64 vote_extensions_enable_height 1
ConsensusParams: BlockParams block 1, EvidenceParams evidence 2, ValidatorParams validator 3, VersionParams version 4, AbciParams abci 5
PublicKey: bytes ed25519 1, bytes secp256k1 2
Validator: bytes address 1, int64 power 3
ValidatorUpdate: PublicKey pub_key 1, int64 power 2
VoteInfo: Validator validator 1, int32 block_id_flag 3
CommitInfo: int32 round 1, VoteInfo* votes 2
Misbehavior: int32 type 1, Validator validator 2, int64 height 3, Timestamp time 4, int64 total_voting_power 5
Snapshot: uint64 height 1, uint32 format 2, uint32 chunks 3, bytes hash 4, bytes metadata 5
EventAttribute: string key 1, string value 2, bool index 3
Event: string type 1, EventAttribute* attributes 2
ExecTxResult: uint32 code 1, bytes data 2, string log 3, string info 4, int64 gas_wanted 5, int64 gas_used 6, Event* events 7, string codespace 8
ProofOp: string type 1, bytes key 2, bytes data 3
ProofOps: ProofOp* ops 1
RequestEcho: string message 1
RequestFlush:
RequestInfo: string version 1, uint64 block_version 2, uint64 p2p_version 3, string abci_version 4
RequestInitChain: Timestamp time 1, string chain_id 2, ConsensusParams consensus_params 3, ValidatorUpdate* validators 4, bytes app_state_bytes 5, int64 initial_height 6
RequestQuery: bytes data 1, string path 2, int64 height 3, bool prove 4
RequestCheckTx: bytes tx 1, int32 type 2
RequestCommit:
RequestListSnapshots:
RequestOfferSnapshot: Snapshot snapshot 1, bytes app_hash 2
RequestLoadSnapshotChunk: uint64 height 1, uint32 format 2, uint32 chunk 3
RequestApplySnapshotChunk: uint32 index 1, bytes chunk 2, string sender 3
RequestPrepareProposal: int64 max_tx_bytes 1, bytes* txs 2, Misbehavior* misbehavior 4, int64 height 5, Timestamp time 6, bytes next_validators_hash 7, bytes proposer_address 8
RequestProcessProposal: bytes* txs 1, CommitInfo proposed_last_commit 2, Misbehavior* misbehavior 3, bytes hash 4, int64 height 5, Timestamp time 6, bytes next_validators_hash 7, bytes proposer_address 8
RequestExtendVote: bytes hash 1, int64 height 2
RequestVerifyVoteExtension: bytes hash 1, bytes validator_address 2, int64 height 3, bytes vote_extension 4
RequestFinalizeBlock: bytes* txs 1, CommitInfo decided_last_commit 2, Misbehavior* misbehavior 3, bytes hash 4, int64 height 5, Timestamp time 6, bytes next_validators_hash 7, bytes proposer_address 8
ResponseException: string error 1
ResponseEcho: string message 1
ResponseFlush:
ResponseInfo: string data 1, string version 2, uint64 app_version 3, int64 last_block_height 4, bytes last_block_app_hash 5
ResponseInitChain: ConsensusParams consensus_params 1, ValidatorUpdate* validators 2, bytes app_hash 3
ResponseQuery: uint32 code 1, string log 3, string info 4, int64 index 5, bytes key 6, bytes value 7, ProofOps proof_ops 8, int64 height 9, string codespace 10
ResponseCheckTx: uint32 code 1, bytes data 2, string log 3, string info 4, int64 gas_wanted 5, int64 gas_used 6, Event* events 7, string codespace 8
ResponseCommit: int64 retain_height 3
ResponseListSnapshots: Snapshot* snapshots 1
ResponseOfferSnapshot: int32 result 1
ResponseLoadSnapshotChunk: bytes chunk 1
ResponseApplySnapshotChunk: int32 result 1, uint32* refetch_chunks 2, string* reject_senders 3
ResponsePrepareProposal: bytes* txs 1
ResponseProcessProposal: int32 status 1
ResponseExtendVote: bytes vote_extension 1
ResponseVerifyVoteExtension: int32 status 1
ResponseFinalizeBlock: Event* events 1, ExecTxResult* tx_results 2, ValidatorUpdate* validator_updates 3, ConsensusParams consensus_param_updates 4, bytes app_hash 5
"""

_VERBS: dict[str, tuple[str, int, int]] = {
    "echo": ("Echo", 1, 2),
    "flush": ("Flush", 2, 3),
    "info": ("Info", 3, 4),
    "init_chain": ("InitChain", 5, 6),
    "query": ("Query", 6, 7),
    "check_tx": ("CheckTx", 8, 9),
    "commit": ("Commit", 11, 12),
    "list_snapshots": ("ListSnapshots", 12, 13),
    "offer_snapshot": ("OfferSnapshot", 13, 14),
    "load_snapshot_chunk": ("LoadSnapshotChunk", 14, 15),
    "apply_snapshot_chunk": ("ApplySnapshotChunk", 15, 16),
    "prepare_proposal": ("PrepareProposal", 16, 17),
    "process_proposal": ("ProcessProposal", 17, 18),
    "extend_vote": ("ExtendVote", 18, 19),
    "verify_vote_extension": ("VerifyVoteExtension", 19, 20),
    "finalize_block": ("FinalizeBlock", 20, 21),
}
"""Verb -> (message suffix, tag in Request, tag in Response)."""


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="paceline/abci.proto", package=_PACKAGE, syntax="proto3")
    for line in _TABLE.strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for field in filter(None, (part.strip() for part in fields.split(","))):
            kind, field_name, number = field.split()
            _add_field(message, kind, field_name, int(number))
    requests = {verb: ("Request" + name, tag) for verb, (name, tag, _) in _VERBS.items()}
    responses = {verb: ("Response" + name, tag) for verb, (name, _, tag) in _VERBS.items()}
    _add_envelope(file, "Request", requests)
    _add_envelope(file, "Response", {**responses, "exception": ("ResponseException", 1)})
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
        for message in file.message_type
    }


def _add_envelope(file: descriptor_pb2.FileDescriptorProto, name: str, verbs: dict[str, tuple[str, int]]) -> None:
    message = file.message_type.add(name=name)
    message.oneof_decl.add(name="value")
    for verb, (kind, tag) in verbs.items():
        _add_field(message, kind, verb, tag)
        message.field[-1].oneof_index = 0


def _add_field(message: descriptor_pb2.DescriptorProto, kind: str, name: str, number: int) -> None:
    repeated = kind.endswith("*")
    kind = kind.rstrip("*")
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"


MESSAGES = _build()
"""Message classes by name. Their fields are dynamic, hence `Any`."""

Request: Any = MESSAGES["Request"]
Response: Any = MESSAGES["Response"]
Snapshot: Any = MESSAGES["Snapshot"]

CODE_OK = 0
CODE_REFUSED = 1
CHECK_NEW, CHECK_AGAIN = 0, 1
PROPOSAL_ACCEPT, PROPOSAL_REJECT = 1, 2
OFFER_ACCEPT, OFFER_ABORT, OFFER_REJECT, OFFER_REJECT_FORMAT = 1, 2, 3, 4
CHUNK_ACCEPT, CHUNK_ABORT, CHUNK_RETRY, CHUNK_REJECT_SNAPSHOT = 1, 2, 3, 5
FLAG_ABSENT, FLAG_COMMIT, FLAG_NIL = 1, 2, 3
DUPLICATE_VOTE, LIGHT_CLIENT_ATTACK = 1, 2


def get_verb(message: Message) -> str | None:
    """Which verb a Request or Response carries, None when it carries none that this schema knows."""
    found: str | None = message.WhichOneof("value")
    return found
