"""Asks one server of the other chain by JSON-RPC, and takes nothing it says for more than well-formed bytes.

It knows no block's rules: what an answer proves is checked in `blocks`. Answers are bounded while they arrive, and every
failure is a TransportError that names the server by its host alone, because the rest of an address often holds a key.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar

import httpx
import msgspec
from msgspec import Meta

from paceline.base.errors import ConfigError, TransportError

ANSWER_SECONDS = 20.0
"""Between two pieces of an answer, and for opening a connection."""
WHOLE_SECONDS = 120.0
"""For one answer, however steadily it drips."""
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""The receipts of a block at the gas limits of today fill about half of it."""
MAX_WORDS = 300

Bytes = Annotated[str, Meta(pattern=r"\A0x(?:[0-9a-fA-F]{2})*\Z")]
Hash = Annotated[str, Meta(pattern=r"\A0x[0-9a-fA-F]{64}\Z")]
Account = Annotated[str, Meta(pattern=r"\A0x[0-9a-fA-F]{40}\Z")]
Number = Annotated[str, Meta(pattern=r"\A0x[0-9a-fA-F]{1,64}\Z")]
T = TypeVar("T")


class RpcRefused(TransportError):
    """The server answered, and said no, or more than is taken at once: a smaller question may pass."""


class Block(msgspec.Struct, frozen=True, rename="camel"):
    """A block without its transactions, as servers tell it. What later forks brought is None before them."""

    hash: Hash
    parent_hash: Hash
    sha3_uncles: Hash
    miner: Account
    state_root: Hash
    transactions_root: Hash
    receipts_root: Hash
    logs_bloom: Bytes
    difficulty: Number
    number: Number
    gas_limit: Number
    gas_used: Number
    timestamp: Number
    extra_data: Bytes
    mix_hash: Hash
    nonce: Bytes
    base_fee_per_gas: Number | None = None
    withdrawals_root: Hash | None = None
    blob_gas_used: Number | None = None
    excess_blob_gas: Number | None = None
    parent_beacon_block_root: Hash | None = None
    requests_hash: Hash | None = None


class Log(msgspec.Struct, frozen=True, rename="camel"):
    """One event of a transaction."""

    address: Account
    topics: list[Hash]
    data: Bytes
    block_number: Number | None = None


class Receipt(msgspec.Struct, frozen=True, rename="camel"):
    """What became of one transaction."""

    status: Number
    cumulative_gas_used: Number
    logs_bloom: Bytes
    logs: list[Log]
    block_number: Number
    transaction_index: Number
    type: Number = "0x0"


class _Trouble(msgspec.Struct):
    message: str = ""


class _Reply(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Trouble | None = None


class EvmRpc:
    """One server. Close it, or use it as a context manager."""

    def __init__(self, url: str, *, limit_bytes: int = MAX_ANSWER_BYTES, transport: Any = None) -> None:
        self.host = require_url(url)
        self._url = url
        self._limit_bytes = limit_bytes
        self._http = httpx.AsyncClient(
            timeout=ANSWER_SECONDS, trust_env=False, follow_redirects=False, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def call(self, kind: type[T], method: str, *params: Any) -> T:
        """The decoded result of one method.

        Errors: RpcRefused when the server says no or too much; TransportError when it does not answer in this form.
        """
        body = await self._post(msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        try:
            reply = msgspec.json.decode(body, type=_Reply)
            if reply.error is not None:
                raise RpcRefused(f"{self.host} refuses {method}: {reply.error.message[:MAX_WORDS]}")
            return msgspec.json.decode(reply.result, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
            raise TransportError(f"{self.host} answers {method} in no known form: {problem}") from None

    async def require_chain(self, chain: int) -> None:
        """Errors: TransportError when the server is of another chain."""
        found = int(await self.call(Number, "eth_chainId"), 16)
        if found != chain:
            raise TransportError(f"{self.host} is a server of chain {found}, the bridge leads to chain {chain}")

    async def get_block(self, number: int | str) -> Block:
        """A block by its number, or by a tag such as "finalized". Errors: TransportError also when it knows none."""
        wanted = hex(number) if isinstance(number, int) else number
        found: Block | None = await self.call(Block | None, "eth_getBlockByNumber", wanted, False)  # type: ignore[arg-type]  # a union is a type to msgspec
        if found is None:
            raise TransportError(f"{self.host} knows no block {number}")
        return found

    async def get_receipts(self, number: int) -> list[Receipt]:
        """All receipts of a block. Errors: TransportError also when it knows none."""
        found: list[Receipt] | None = await self.call(list[Receipt] | None, "eth_getBlockReceipts", hex(number))  # type: ignore[arg-type]  # as above
        if found is None:
            raise TransportError(f"{self.host} knows no receipts of block {number}")
        return found

    async def find_logs(self, contract: bytes, topic: bytes, first: int, last: int) -> list[int]:
        """Numbers of the blocks in which the server says that a contract wrote an event, rising."""
        asked = {"fromBlock": hex(first), "toBlock": hex(last), "address": to_hex(contract), "topics": [to_hex(topic)]}
        numbers = {
            -1 if log.block_number is None else int(log.block_number, 16)
            for log in await self.call(list[Log], "eth_getLogs", asked)
        }
        if any(not first <= number <= last for number in numbers):
            raise TransportError(f"{self.host} tells events outside of blocks {first} to {last}")
        return sorted(numbers)

    async def _post(self, content: bytes) -> bytes:
        # Uncompressed, so that what is counted is what is held.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        body = bytearray()
        try:
            async with (
                asyncio.timeout(WHOLE_SECONDS),
                self._http.stream("POST", self._url, content=content, headers=headers) as response,
            ):
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > self._limit_bytes:
                        raise RpcRefused(f"{self.host} answers with more than {self._limit_bytes} bytes")
                status = response.status_code
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as problem:
            raise TransportError(f"{self.host} does not answer: {type(problem).__name__}") from None
        if status != httpx.codes.OK:
            raise RpcRefused(f"{self.host} answers with status {status}")
        return bytes(body)


def require_url(url: str) -> str:
    """The host of a server's address. Errors: ConfigError without the address, which may hold a key."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ConfigError("an address of an RPC server begins with http:// or https:// and a host")
    return f"{parts.host}:{parts.port}" if parts.port else parts.host


def to_hex(data: bytes) -> str:
    """As the other chain writes bytes."""
    return f"0x{data.hex()}"


def from_hex(text: str) -> bytes:
    """Bytes of a text that was checked for its form."""
    return bytes.fromhex(text[2:])
