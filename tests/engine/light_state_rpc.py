"""A node's RPC without a node: made blocks over one state, and answers about it with their proofs."""

from __future__ import annotations

import base64

import msgspec
from light_chain import MemoryProvider, make_block, make_set

from paceline.protocol.codec import encode
from paceline.store.trie import Trie

HEIGHT = 5
MEMBERS = make_set([10, 10, 10])


class StateRpc(MemoryProvider):
    """In the place of an `HttpLightProvider`; `change` may lie in an answer."""

    def __init__(self, pairs, *, chain_id="made", change=lambda _: None):
        self._pairs, self._trie, self._change = dict(pairs), Trie().with_changes(dict(pairs)), change
        blocks = [
            make_block(height, MEMBERS, chain_id=chain_id, app_hash=self._trie.root) for height in range(1, HEIGHT + 2)
        ]
        super().__init__(blocks, name="http://node")

    @property
    def trust(self):
        """Options that trust the first header."""
        return ("--trust-height", "1", "--trust-hash", self.blocks[1].header.compute_hash().hex())

    def ask(self, method, params, kind):
        assert (method, params["path"], params["prove"]) == ("abci_query", '"/state"', "true")
        key = bytes.fromhex(params["data"].removeprefix("0x"))
        value, proof = self._pairs.get(key), encode(self._trie.prove(key))
        ops = [{"type": "paceline:trie", "data": base64.b64encode(proof).decode()}]
        response = {"height": str(HEIGHT), "value": None if value is None else base64.b64encode(value).decode()}
        response["proofOps"] = {"ops": ops}
        self._change(response)
        return msgspec.convert({"response": response}, kind, strict=False)

    def close(self):
        pass
