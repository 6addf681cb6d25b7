"""Values of the state with their proofs, asked from a CometBFT node's RPC: `/abci_query` with path `/state`.

Believes nothing but the shape of the answer: whether the value is true shows under a verified header, in `light_state`.
No value of the ledger is empty, so an empty one stands for none.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from paceline.base.errors import InvalidBlock, TransportError
from paceline.engine.light_rpc import HttpLightProvider
from paceline.engine.light_state import STATE_PROOF, STATE_QUERY
from paceline.protocol.codec import decode
from paceline.store.trie import TrieProof

MAX_PROOF_BYTES: Final = 16 * 1024


class Evidence(NamedTuple):
    """What a node says a key's value is (None: it has none) as of a height, and how it means to show it."""

    height: int
    value: bytes | None
    proof: TrieProof


class StateProvider(Protocol):
    """Somebody who hands out values with proofs, and may lie."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def get_evidence(self, key: bytes) -> Evidence:
        """A key's value in the last state that the provider has.

        Errors: TransportError when it cannot answer; InvalidBlock malformed when it answers nonsense.
        """


class _ProofOp(msgspec.Struct):
    type: str
    data: bytes | None


class _ProofOps(msgspec.Struct):
    ops: list[_ProofOp]


class _Response(msgspec.Struct, rename="camel"):
    code: int = 0
    log: str = ""
    value: bytes | None = None
    height: Annotated[int, Meta(ge=0, le=2**63 - 2)] = 0
    proof_ops: _ProofOps | None = None


class _QueryAnswer(msgspec.Struct):
    response: _Response


class HttpStateProvider:
    """One node's RPC as a provider of values."""

    def __init__(self, rpc: HttpLightProvider) -> None:
        self._rpc = rpc

    @property
    def name(self) -> str:
        """Its address."""
        return self._rpc.name

    def get_evidence(self, key: bytes) -> Evidence:
        """As `StateProvider`."""
        params = {"path": f'"{STATE_QUERY}"', "data": f"0x{key.hex()}", "prove": "true"}
        response = self._rpc.ask("abci_query", params, _QueryAnswer).response
        if response.code != 0:
            raise TransportError(f"{self.name} refuses to say a value: {response.log[:200]}")
        ops = response.proof_ops.ops if response.proof_ops is not None else []
        if [op.type for op in ops] != [STATE_PROOF]:
            raise InvalidBlock("malformed", f"{self.name}: a value comes with one proof of type {STATE_PROOF}")
        return Evidence(response.height, response.value or None, self._decode_proof(ops[0].data or b""))

    def _decode_proof(self, data: bytes) -> TrieProof:
        try:
            return decode(TrieProof, data, limit_bytes=MAX_PROOF_BYTES, error=InvalidBlock)
        except InvalidBlock as problem:
            raise InvalidBlock(problem.code, f"{self.name}: {problem.message}") from None
