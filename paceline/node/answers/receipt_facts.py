"""What a user's receipt holds, and the ledger's word on its task, read the same way by who makes and who verifies it.

Knows no socket and no disk. Invariant: the ledger's own reading functions run on what was proven, so maker and verifier cannot
differ on what a record means, and a key that was read without being proven is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from paceline.base.errors import InvalidClaim
from paceline.ledger import beacon, groups, nodes
from paceline.ledger.beacon import BeaconValue
from paceline.ledger.nodes import NODES, Node
from paceline.ledger.sessions import SESSIONS, Session
from paceline.ledger.state import Readable, State
from paceline.ledger.tasks import TASKS, Task
from paceline.protocol.answers import MAX_PAYLOAD_BYTES
from paceline.protocol.codec import Record, decode
from paceline.protocol.fields import Digest, SignatureBytes
from paceline.protocol.traps import NO_SEAL
from paceline.store.trie import PATH_BITS, TrieProof

RECEIPT_VERSION = 1
MAX_RECEIPT_BYTES = MAX_PAYLOAD_BYTES + 16 * 1024 * 1024


class ProvenValue(Record, frozen=True, kw_only=True):
    """A key of the state, its value (None: it has none), and the way to the root."""

    key: bytes
    value: bytes | None
    leaf_path: bytes
    leaf_value_hash: bytes
    forks: Annotated[tuple[tuple[int, bytes], ...], Meta(max_length=PATH_BITS)]

    @property
    def proof(self) -> TrieProof:
        """What `store.trie` verifies."""
        return TrieProof(self.leaf_path, self.leaf_value_hash, self.forks)


class UserReceipt(Record, frozen=True, kw_only=True):
    """An answer with all that shows a stranger where it came from. Holds the prompt: it is the user's to show or to keep."""

    version: Annotated[int, Meta(ge=RECEIPT_VERSION, le=RECEIPT_VERSION)]
    chain_id: str
    task: Digest
    engine: Literal["solo", "cometbft"]
    height: Annotated[int, Meta(ge=1)]
    anchor: bytes
    """What signs the state at the height: the sequencer's block, or the next header with the validators' votes."""
    values: Annotated[tuple[ProvenValue, ...], Meta(max_length=4_096)]
    payload: bytes
    text: str
    signature: SignatureBytes
    """The executor's, over task, prompt, payload and counts."""
    salt: Digest = NO_SEAL
    """Opens the seal that binds the executor to this payload, whatever its checkers were shown."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The ledger's word on a task. Without its session, which ends before its tasks, the draw cannot be shown any more."""

    task: Task
    nodes: Mapping[bytes, Node | None]
    session: Session | None
    weights: Mapping[bytes, int]
    beacon: BeaconValue | None
    group_key: bytes | None


def decode_receipt(data: bytes) -> UserReceipt:
    """A receipt from an untrusted file.

    Errors: InvalidClaim too-large, malformed, non-canonical.
    """
    return decode(UserReceipt, data, limit_bytes=MAX_RECEIPT_BYTES, error=InvalidClaim)


def read_facts(state: State, task_id: bytes) -> Facts:
    """Everything about one task, by keys alone.

    Errors: InvalidClaim unknown-task.
    """
    task = TASKS.get(state, task_id)
    if task is None:
        raise InvalidClaim(
            "unknown-task", "the ledger holds no task of this id: not yet, or its epoch has been settled"
        )
    session = SESSIONS.get(state, task.session)
    signed = beacon.get_signed(state, session.round_index) if session is not None else None
    weights = nodes.get_weights_at(state, session.version) if session is not None else {}
    involved = sorted({*weights, task.executor, task.relay, *task.drawn, *(vote.voter for vote in task.votes)})
    return Facts(
        task=task,
        nodes={address: NODES.get(state, address) for address in involved},
        session=session,
        weights=weights,
        beacon=signed,
        group_key=groups.get_group_key(state, signed.group) if signed is not None else None,
    )


class KeyNotes:
    """A readable layer that notes every key asked for."""

    def __init__(self, below: Readable) -> None:
        self._below = below
        self.keys: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        """The value below, noted."""
        return self.keys.setdefault(key, self._below.get(key))

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """No proof covers all keys under a prefix."""
        raise AssertionError(f"a receipt reads by key alone, not under {prefix!r}")


class ProvenValues:
    """A readable layer of proven values only."""

    def __init__(self, values: Mapping[bytes, bytes | None]) -> None:
        self._values = values

    def get(self, key: bytes) -> bytes | None:
        """Errors: InvalidClaim unproven."""
        if key not in self._values:
            raise InvalidClaim("unproven", f"the receipt does not prove the value of {key!r}")
        return self._values[key]

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """No proof covers all keys under a prefix."""
        raise AssertionError(f"a receipt reads by key alone, not under {prefix!r}")
