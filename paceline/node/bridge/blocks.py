"""What a server of the other chain says of a block, held against the block's own hashes; and the deposits in it.

A header must hash to the block's hash, and all receipts together to the header's root: so a server can hide a block or make up
a whole one, but cannot change a deposit of a block that exists. Whether a block is of the chain, and final, no hash tells.
Invariant: a `CheckedBlock` is made here only, after both.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from paceline.base.errors import Invalid, TransportError
from paceline.base.patricia import Item, compute_keccak
from paceline.ledger.bridge import find_deposit
from paceline.node.bridge.rpc import Block, EvmRpc, Log, Receipt, from_hex
from paceline.node.bridge.trees import encode_rlp, grow_tree, shorten

MAX_NUMBER = 2**48
"""What the ledger takes for a number."""


@dataclass(frozen=True)
class Deposit:
    """One event of the bridge's contract. Units: micro-dollars."""

    transaction: int
    log: int
    to: bytes
    amount: int


@dataclass(frozen=True)
class CheckedBlock:
    """A block whose header and receipts hash to what they should."""

    number: int
    block_hash: bytes
    receipts_root: bytes
    receipts: tuple[bytes, ...]
    logs: tuple[int, ...]
    """How many events each receipt holds."""

    def list_deposits(self, contract: bytes) -> list[Deposit]:
        """Everything that the ledger would credit, by place."""
        return [found for place in range(len(self.receipts)) for found in self.list_deposits_of(contract, place)]

    def list_deposits_of(self, contract: bytes, place: int) -> list[Deposit]:
        """The deposits of one transaction."""
        found = []
        for log in range(self.logs[place]):
            try:
                to, amount = find_deposit(self.receipts[place], log, contract)
            except Invalid:
                continue
            found.append(Deposit(place, log, to, amount))
        return found

    def prove(self, place: int) -> tuple[bytes, ...]:
        """The path to one receipt."""
        return grow_tree(self.receipts, place)[1]


async def fetch_block(server: EvmRpc, number: int) -> CheckedBlock:
    """A block with all its receipts. Errors: TransportError when it does not answer, or its words contradict each other."""
    block = await server.get_block(number)
    header = check_header(server.host, block, number)
    receipts = await server.get_receipts(number)
    # A full block is thousands of hashes.
    return await asyncio.to_thread(check_receipts, server.host, header, block, receipts)


def check_header(host: str, block: Block, number: int | None = None) -> bytes:
    """The hash of a header. Errors: TransportError when it is not the one that the server gives, or of another number."""
    given = int(block.number, 16)
    if number not in {None, given} or given > MAX_NUMBER:
        raise TransportError(f"{host} was asked for block {'of a tag' if number is None else number} and gives {given}")
    found = compute_keccak(encode_header(block))
    if found != from_hex(block.hash):
        raise TransportError(f"{host}: the header of block {given} does not hash to the block's hash")
    return found


def check_receipts(host: str, block_hash: bytes, block: Block, receipts: list[Receipt]) -> CheckedBlock:
    """The block with its receipts. Errors: TransportError when they are not under the header's root."""
    encoded = tuple(map(encode_receipt, receipts))
    root = from_hex(block.receipts_root)
    number = int(block.number, 16)
    if grow_tree(encoded)[0] != root:
        raise TransportError(f"{host}: the receipts of block {number} do not hash to the root in its header")
    return CheckedBlock(number, block_hash, root, encoded, tuple(len(receipt.logs) for receipt in receipts))


def encode_header(block: Block) -> bytes:
    """The bytes that a block's hash is of."""
    fields: list[Item] = [
        from_hex(block.parent_hash),
        from_hex(block.sha3_uncles),
        from_hex(block.miner),
        from_hex(block.state_root),
        from_hex(block.transactions_root),
        from_hex(block.receipts_root),
        from_hex(block.logs_bloom),
        _number(block.difficulty),
        _number(block.number),
        _number(block.gas_limit),
        _number(block.gas_used),
        _number(block.timestamp),
        from_hex(block.extra_data),
        from_hex(block.mix_hash),
        from_hex(block.nonce),
    ]
    later = (
        (block.base_fee_per_gas, _number),
        (block.withdrawals_root, from_hex),
        (block.blob_gas_used, _number),
        (block.excess_blob_gas, _number),
        (block.parent_beacon_block_root, from_hex),
        (block.requests_hash, from_hex),
    )
    fields += [read(text) for text, read in later if text is not None]
    return encode_rlp(fields)


def encode_receipt(receipt: Receipt) -> bytes:
    """The bytes that a block's tree holds of a receipt."""
    logs: list[Item] = [_list_log(log) for log in receipt.logs]
    body: list[Item] = [
        _number(receipt.status),
        _number(receipt.cumulative_gas_used),
        from_hex(receipt.logs_bloom),
        logs,
    ]
    kind = int(receipt.type, 16)
    return (shorten(kind) if kind else b"") + encode_rlp(body)


def _list_log(log: Log) -> Item:
    return [from_hex(log.address), [from_hex(topic) for topic in log.topics], from_hex(log.data)]


def _number(text: str) -> bytes:
    return shorten(int(text, 16))
