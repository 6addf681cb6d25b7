"""What a node with an attester's key signs for anybody who asks: a payment over there of what the ledger says was burnt here.

A signature is over public facts and worth nothing without those of two thirds, so nobody is asked who he is, nothing is kept,
and the ledger carries none of it. Invariant: nothing is signed that is not in committed state.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.base.errors import InvalidTransaction, PacelineError
from paceline.ledger.bridge import WITHDRAWALS, Withdrawal, compute_withdrawal_digest
from paceline.ledger.state import State
from paceline.node.bridge.keys import SIGNATURE_BYTES, EvmKey, load_evm_key
from paceline.node.context import Context
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.fields import AddressBytes, Height
from paceline.protocol.params import BridgeParams

PATH = "withdrawal"
"""Of the question, among those that peers answer."""
KEY_FILE = "bridge-key"
MAX_BYTES = 256
ASK_SECONDS = 10.0
AT_ONCE = 64


class SignatureRequest(Record, frozen=True):
    """Asks for the signature under one withdrawal."""

    number: Height


class SignedWithdrawal(Record, frozen=True):
    """An attester's address over there, and its signature as wallets make them."""

    attester: AddressBytes
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class NodeSignature(msgspec.Struct, frozen=True, kw_only=True):
    """What one node answered: hex digits, or why there are none."""

    node: str
    attester: str = ""
    signature: str = ""
    trouble: str = ""


class CollectedSignatures(msgspec.Struct, frozen=True, kw_only=True):
    """A withdrawal, and what every node of the network answered. Units: micro-dollars."""

    number: int
    to: str
    amount: int
    answers: list[NodeSignature]


def load_attester(folder: Path) -> EvmKey | None:
    """The attester's key of a node, None where it has none. Errors: ConfigError when it is damaged or the library is missing."""
    path = folder / KEY_FILE
    return load_evm_key(path) if path.exists() else None


class Attester:
    """Signs for one node, and asks all others."""

    def __init__(self, context: Context, key: EvmKey | None) -> None:
        self._context = context
        self._key = key

    @property
    def address(self) -> bytes:
        """Over there; empty for a node without such a key."""
        return b"" if self._key is None else self._key.address

    def answer(self, body: bytes) -> bytes:
        """The answer to a request in bytes. Errors: InvalidTransaction malformed, no-bridge, no-attester, unknown-withdrawal."""
        number = decode(SignatureRequest, body, limit_bytes=MAX_BYTES).number
        return encode(self.sign(number))

    def sign(self, number: int) -> SignedWithdrawal:
        """The own signature. Errors: InvalidTransaction no-bridge, no-attester, unknown-withdrawal."""
        bridge = self._context.params.bridge
        withdrawal = get_withdrawal(self._context.chain.read(), bridge, number)
        if self._key is None:
            raise InvalidTransaction("no-attester", f"{self._context.settings.name} has no attester's key")
        digest = compute_withdrawal_digest(bridge, number, withdrawal)
        return SignedWithdrawal(self._key.address, self._key.sign_message(digest))

    async def collect(self, number: int) -> CollectedSignatures:
        """Ask every node. Errors: InvalidTransaction no-bridge, unknown-withdrawal."""
        withdrawal = get_withdrawal(self._context.chain.read(), self._context.params.bridge, number)
        slots = asyncio.Semaphore(AT_ONCE)
        names = [peer.name for peer in self._context.peers.all()]
        answers = await asyncio.gather(*(self._ask(name, number, slots) for name in names))
        return CollectedSignatures(
            number=number, to=f"0x{withdrawal.to.hex()}", amount=withdrawal.amount, answers=list(answers)
        )

    async def _ask(self, name: str, number: int, slots: asyncio.Semaphore) -> NodeSignature:
        try:
            if name == self._context.settings.name:
                found = self.sign(number)
            else:
                async with slots, asyncio.timeout(ASK_SECONDS):
                    reply = await self._context.peers.request(name, PATH, encode(SignatureRequest(number)))
                found = decode(SignedWithdrawal, reply, limit_bytes=MAX_BYTES)
        except TimeoutError:
            return NodeSignature(node=name, trouble="no answer in time")
        except PacelineError as problem:
            return NodeSignature(node=name, trouble=str(problem))
        return NodeSignature(node=name, attester=f"0x{found.attester.hex()}", signature=found.signature.hex())


def get_withdrawal(state: State, bridge: BridgeParams, number: int) -> Withdrawal:
    """What was burnt under a number. Errors: InvalidTransaction no-bridge, unknown-withdrawal."""
    if not bridge.contract:
        raise InvalidTransaction("no-bridge", "this network has no bridge")
    found = WITHDRAWALS.get(state, number.to_bytes(8, "big"))
    if found is None:
        raise InvalidTransaction("unknown-withdrawal", f"nothing was burnt under number {number}")
    return found
