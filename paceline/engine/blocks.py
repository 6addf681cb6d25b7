"""Blocks of the solo engine: what the sequencer signs and every replica verifies before it executes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.errors import InvalidBlock
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey, verify_signature
from paceline.base.merkle import compute_root
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.fields import Digest, Height, SignatureBytes
from paceline.protocol.messages import MAX_TRANSACTION_BYTES

MAX_BLOCK_BYTES = 4 * 1024 * 1024


class Block(Record, frozen=True, kw_only=True):
    """Transactions of one height with the app hash they lead to. `unix_milliseconds` informs people only."""

    height: Height
    previous_hash: Digest
    app_hash: Digest
    unix_milliseconds: Annotated[int, Meta(ge=0, le=2**62)]
    transactions: tuple[bytes, ...]
    signature: SignatureBytes

    def compute_hash(self, chain_id: str) -> bytes:
        """32 bytes that name the block and bind everything in it."""
        root = compute_root(self.transactions)
        header = (chain_id, self.height, self.previous_hash, self.app_hash, self.unix_milliseconds, root)
        return hash_parts("block", encode(header))


def seal_block(block: Block, chain_id: str, key: AccountKey) -> Block:
    """The block with the sequencer's signature over its hash."""
    signature = key.sign(b"paceline-block" + block.compute_hash(chain_id))
    return Block(
        height=block.height,
        previous_hash=block.previous_hash,
        app_hash=block.app_hash,
        unix_milliseconds=block.unix_milliseconds,
        transactions=block.transactions,
        signature=signature,
    )


def decode_block(data: bytes) -> Block:
    """A block from untrusted bytes.

    Errors: InvalidBlock too-large, malformed, non-canonical.
    """
    return decode(Block, data, limit_bytes=MAX_BLOCK_BYTES + MAX_TRANSACTION_BYTES, error=InvalidBlock)


def verify_block(block: Block, chain_id: str, sequencer: bytes) -> bytes:
    """The block's hash, when the sequencer signed it.

    Errors: InvalidBlock bad-signature.
    """
    block_hash = block.compute_hash(chain_id)
    if not verify_signature(sequencer, b"paceline-block" + block_hash, block.signature):
        raise InvalidBlock("bad-signature", f"block {block.height} is not signed by this network's sequencer")
    return block_hash
