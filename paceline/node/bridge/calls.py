"""Calls to the bridge's contract and its token: their bytes as wallets want them, what they read, and sending them by a key.

Only the functions that `tools/bridge/PacelineBridge.sol` has are known. Every call is tried on the server before it is signed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from paceline.base.errors import ConfigError, TransportError
from paceline.base.patricia import Item, compute_keccak
from paceline.node.bridge.keys import EvmKey
from paceline.node.bridge.rpc import Bytes, EvmRpc, Hash, Number, Receipt, RpcRefused, from_hex, to_hex
from paceline.node.bridge.trees import encode_rlp, shorten

WORD_BYTES = 32
RECOVER = (1).to_bytes(20, "big")
"""Where the other chain itself answers who signed a hash."""
TYPE_FEE = b"\x02"
MINED_SECONDS = 180.0
POLL_SECONDS = 0.5
TIP = 1_000_000_000
"""Offered at most to whoever makes the block, in units of 1e-18."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction to hand to any wallet: whom it goes to, and its data; it carries no coins."""

    what: str
    to: str
    data: str


def pack_call(signature: str, *words: bytes) -> bytes:
    """Selector and words."""
    assert all(len(word) == WORD_BYTES for word in words)
    return compute_keccak(signature.encode("ascii"))[:4] + b"".join(words)


def pack_number(number: int) -> bytes:
    """A number in a word."""
    return number.to_bytes(WORD_BYTES, "big")


def pack_address(address: bytes) -> bytes:
    """An address in a word."""
    return address.rjust(WORD_BYTES, b"\0")


def make_approval(token: bytes, contract: bytes, amount: int) -> Call:
    """Lets the contract take so much of a token."""
    data = pack_call("approve(address,uint256)", pack_address(contract), pack_number(amount))
    return Call(what="approve", to=to_hex(token), data=to_hex(data))


def make_deposit(contract: bytes, account: bytes, amount: int) -> Call:
    """Pays into the contract for an account of this network."""
    data = pack_call("deposit(bytes20,uint256)", account.ljust(WORD_BYTES, b"\0"), pack_number(amount))
    return Call(what="deposit", to=to_hex(contract), data=to_hex(data))


def make_release(contract: bytes, number: int, to: bytes, amount: int, signatures: Sequence[bytes]) -> Call:
    """Lets the contract pay a withdrawal. `signatures`: in the order of their signers' addresses."""
    heads, tails = b"", b""
    for signature in signatures:
        heads += pack_number(WORD_BYTES * len(signatures) + len(tails))
        padded = -(-len(signature) // WORD_BYTES) * WORD_BYTES
        tails += pack_number(len(signature)) + signature.ljust(padded, b"\0")
    words = (pack_number(number), pack_address(to), pack_number(amount), pack_number(4 * WORD_BYTES))
    data = pack_call("release(uint256,address,uint256,bytes[])", *words, pack_number(len(signatures)))
    return Call(what="release", to=to_hex(contract), data=to_hex(data + heads + tails))


class Contract:
    """What the contract and its token say, as one server tells it."""

    def __init__(self, server: EvmRpc, address: bytes) -> None:
        self._server = server
        self.address = address

    async def get_token(self) -> bytes:
        """The token that it holds."""
        return (await self._read(self.address, pack_call("token()")))[-20:]

    async def get_power(self, attester: bytes) -> int:
        """Of one attester."""
        return await self._read_number(self.address, pack_call("power(address)", pack_address(attester)))

    async def get_total_power(self) -> int:
        """Of all attesters."""
        return await self._read_number(self.address, pack_call("totalPower()"))

    async def is_released(self, number: int) -> bool:
        """True when a withdrawal is paid."""
        return bool(await self._read_number(self.address, pack_call("released(uint256)", pack_number(number))))

    async def get_allowance(self, token: bytes, owner: bytes) -> int:
        """How much of an owner's tokens the contract may take."""
        words = pack_address(owner), pack_address(self.address)
        return await self._read_number(token, pack_call("allowance(address,address)", *words))

    async def find_signer(self, wallet_hash: bytes, signature: bytes) -> bytes | None:
        """Who signed, None when it is no signature."""
        data = wallet_hash + pack_number(signature[64]) + signature[:64]
        found = await call_at(self._server, RECOVER, data)
        return found[-20:] if len(found) == WORD_BYTES else None

    async def _read(self, to: bytes, data: bytes) -> bytes:
        found = await call_at(self._server, to, data)
        if len(found) != WORD_BYTES:
            raise ConfigError(f"{to_hex(to)} on {self._server.host} is not the bridge's contract, or not its token")
        return found

    async def _read_number(self, to: bytes, data: bytes) -> int:
        return int.from_bytes(await self._read(to, data), "big")


async def call_at(server: EvmRpc, to: bytes, data: bytes) -> bytes:
    """What a call would return now. Errors: RpcRefused when it would fail."""
    asked = {"to": to_hex(to), "data": to_hex(data)}
    return from_hex(await server.call(Bytes, "eth_call", asked, "latest"))


async def send_call(server: EvmRpc, chain: int, key: EvmKey, call: Call) -> bytes:
    """Try a call, sign it, hand it over and wait for its block; the transaction's hash.

    Errors: ConfigError when it would fail or has failed; TransportError when no block holds it in time.
    """
    order = {"from": to_hex(key.address), "to": call.to, "data": call.data}
    try:
        gas = int(await server.call(Number, "eth_estimateGas", order), 16)
    except RpcRefused as problem:
        raise ConfigError(f"{call.what} would fail for {to_hex(key.address)}: {problem}") from None
    sender = to_hex(key.address)
    nonce = int(await server.call(Number, "eth_getTransactionCount", sender, "pending"), 16)
    base_fee = int((await server.get_block("latest")).base_fee_per_gas or "0x0", 16)
    fields: list[Item] = [
        *map(shorten, (chain, nonce, TIP, 2 * base_fee + TIP, gas + gas // 5)),
        from_hex(call.to),
        b"",
        from_hex(call.data),
        [],
    ]
    signature = key.sign_hash(compute_keccak(TYPE_FEE + encode_rlp(fields)))
    parts = (signature[64], int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"))
    signed = TYPE_FEE + encode_rlp([*fields, *map(shorten, parts)])
    await server.call(Hash, "eth_sendRawTransaction", to_hex(signed))
    digest = compute_keccak(signed)
    if int((await _wait_mined(server, digest)).status, 16) != 1:
        raise ConfigError(f"{call.what} failed over there: transaction {to_hex(digest)}")
    return digest


async def get_receipt(server: EvmRpc, transaction: bytes) -> Receipt | None:
    """What became of a transaction, None while no block holds it."""
    found: Receipt | None = await server.call(Receipt | None, "eth_getTransactionReceipt", to_hex(transaction))  # type: ignore[arg-type]  # a union is a type to msgspec
    return found


async def _wait_mined(server: EvmRpc, transaction: bytes) -> Receipt:
    deadline = time.monotonic() + MINED_SECONDS
    while (found := await get_receipt(server, transaction)) is None:
        if time.monotonic() > deadline:
            raise TransportError(f"{server.host}: no block holds {to_hex(transaction)} after {MINED_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
    return found
