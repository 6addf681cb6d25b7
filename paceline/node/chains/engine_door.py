"""The engine's read-only questions on the node's own port: newcomers sync their state by them, light clients verify.

The engine's RPC itself stays on loopback, because it also takes orders. Only what is named here passes.
"""

from __future__ import annotations

from typing import Any

import httpx
import msgspec

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.network.public import PublicPath, PublicRequest

CALL_SECONDS = 10.0
READ_ONLY = (
    "abci_info",
    "abci_query",
    "block",
    "blockchain",
    "commit",
    "consensus_params",
    "header",
    "health",
    "status",
    "validators",
)


class EngineDoor:
    """Passes read-only JSON-RPC on to one engine."""

    def __init__(self, address: str) -> None:
        self._http = httpx.AsyncClient(base_url=f"http://{address}", timeout=CALL_SECONDS, trust_env=False)

    @property
    def paths(self) -> dict[str, PublicPath]:
        """Public paths: JSON-RPC at the root, and one path per method."""
        by_name = {f"/{method}": PublicPath(self._get(method), "application/json") for method in READ_ONLY}
        return {"/": PublicPath(self._post, "application/json"), **by_name}

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    def _get(self, method: str) -> Any:
        async def answer(request: PublicRequest) -> bytes:
            return await self._ask("GET", f"/{method}?{request.query}", b"")

        return answer

    async def _post(self, request: PublicRequest) -> bytes:
        try:
            call = msgspec.json.decode(request.body)
        except msgspec.DecodeError:
            raise InvalidTransaction("malformed", "the body is no JSON-RPC call") from None
        method = call.get("method") if isinstance(call, dict) else None
        if method not in READ_ONLY:
            raise InvalidTransaction("unknown-method", f"only {', '.join(READ_ONLY)} are answered here")
        return await self._ask("POST", "/", request.body)

    async def _ask(self, verb: str, path: str, body: bytes) -> bytes:
        try:
            reply = await self._http.request(verb, path, content=body)
        except httpx.TransportError as problem:
            raise TransportError(f"the engine does not answer: {problem!r}") from None
        return reply.content
