"""One value of the ledger's state, proven under a header that a light client trusts.

Knows nothing of what keys and values mean. A header carries the app hash of the state before its own block, so a value
as of height h is proven by header h + 1.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from paceline.base.errors import InvalidBlock
from paceline.engine.light_blocks import Header
from paceline.store.trie import PATH_BITS, TrieProof, verify_proof

STATE_QUERY: Final = "/state"
"""Path under which an engine passes questions about the state on to its Application."""
STATE_PROOF: Final = "paceline:trie"
"""The kind of evidence that answers them."""
MAX_STATE_PROOF_BYTES: Final = 4 * 1024 * 1024
_Hex = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{2})*\Z")]


class StateProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value (None: there is none) as of a height and the way to its root, as JSON with lower-case hex."""

    height: Annotated[int, Meta(ge=0, le=2**63 - 2)]
    value: _Hex | None
    leaf_path: _Hex
    leaf_value_hash: _Hex
    forks: Annotated[list[tuple[int, _Hex]], Meta(max_length=PATH_BITS)]

    @property
    def value_bytes(self) -> bytes | None:
        """The value."""
        return None if self.value is None else bytes.fromhex(self.value)

    @property
    def trie_proof(self) -> TrieProof:
        """What `store.trie` verifies."""
        forks = tuple((bit, bytes.fromhex(sibling)) for bit, sibling in self.forks)
        return TrieProof(bytes.fromhex(self.leaf_path), bytes.fromhex(self.leaf_value_hash), forks)


def encode_state_proof(height: int, value: bytes | None, proof: TrieProof) -> bytes:
    """JSON of a value as of a height and its proof."""
    forks = [(bit, sibling.hex()) for bit, sibling in proof.forks]
    hexed = None if value is None else value.hex()
    found = StateProof(
        height=height,
        value=hexed,
        leaf_path=proof.leaf_path.hex(),
        leaf_value_hash=proof.leaf_value_hash.hex(),
        forks=forks,
    )
    return msgspec.json.encode(found)


def decode_state_proof(data: bytes) -> StateProof:
    """A proof from untrusted JSON.

    Errors: InvalidBlock too-large, malformed.
    """
    if len(data) > MAX_STATE_PROOF_BYTES:
        raise InvalidBlock("too-large", f"a proof of {len(data)} bytes, at most {MAX_STATE_PROOF_BYTES}")
    try:
        return msgspec.json.decode(data, type=StateProof)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InvalidBlock("malformed", f"the proof: {problem}") from None


def verify_state_value(header: Header, key: bytes, value: bytes | None, proof: TrieProof) -> None:
    """Return when the state before this header's block gave the key this value (None: no value).

    Errors: InvalidBlock state-proof.
    """
    if not verify_proof(header.app_hash, key, value, proof):
        raise InvalidBlock(
            "state-proof",
            f"the proof does not show this value of key {key.hex()} under the app hash {header.app_hash.hex()} "
            f"of header {header.height}",
        )
