"""Asks the engine beside this node: hand over a transaction, say how far it is. Never called from inside a commit."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from paceline.base.errors import InvalidTransaction, TransportError

CALL_SECONDS = 10.0
KNOWN_ALREADY = "already exists in cache"


@dataclass(frozen=True)
class EngineStatus:
    """Where an engine stands."""

    node_id: str
    height: int
    block_hash: str
    catching_up: bool


class EngineRpc:
    """JSON-RPC of one CometBFT node."""

    def __init__(self, address: str) -> None:
        self._http = httpx.AsyncClient(base_url=f"http://{address}", timeout=CALL_SECONDS, trust_env=False)

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def broadcast(self, data: bytes) -> None:
        """Get a transaction into the mempool; one that is there already is fine.

        Errors: InvalidTransaction with the ledger's code; TransportError when the engine cannot take it now.
        """
        try:
            found = await self._call("broadcast_tx_sync", {"tx": base64.b64encode(data).decode("ascii")})
        except TransportError as problem:
            if KNOWN_ALREADY in str(problem):
                return
            raise
        if found["code"] != 0:
            raise InvalidTransaction(found.get("codespace") or "refused", found.get("log", ""))

    async def get_status(self) -> EngineStatus:
        """Height and identity. Errors: TransportError when it does not answer."""
        found = await self._call("status", {})
        sync = found["sync_info"]
        return EngineStatus(
            node_id=found["node_info"]["id"],
            height=int(sync["latest_block_height"]),
            block_hash=sync["latest_block_hash"],
            catching_up=sync["catching_up"],
        )

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            response = await self._http.post("/", json=body)
            answer = msgspec.json.decode(response.content)
        except (httpx.HTTPError, msgspec.DecodeError) as problem:
            raise TransportError(f"the engine does not answer: {problem!r}") from None
        if "error" in answer:
            raise TransportError(f"the engine refuses: {answer['error'].get('data') or answer['error'].get('message')}")
        result: dict[str, Any] = answer["result"]
        return result
