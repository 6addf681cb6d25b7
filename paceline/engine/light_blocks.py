"""What a light client reads of a block: header, commit and validator set, and the hashes that bind them to each other.

Knows nothing of trust, time or providers. A block that passed `check_light_block` names one header by one hash, one
validator set by that header, and one vote per validator; whether the votes are signed is for `light_votes`.
Source: CometBFT 0.38, spec/core/data_structures.md; RFC 6962 section 2.1 for the tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from paceline.base.errors import InvalidBlock
from paceline.engine.protobuf import (
    encode_block_id,
    encode_bytes_value,
    encode_integer_value,
    encode_timestamp,
    encode_validator,
    encode_version,
)
from paceline.protocol.codec import Record, decode, encode

ABSENT, FOR_BLOCK, FOR_NIL = 1, 2, 3
BLOCK_PROTOCOL: Final = 11
MAX_VALIDATORS: Final = 10_000
MAX_TOTAL_POWER: Final = (2**63 - 1) // 8
MAX_LIGHT_BLOCK_BYTES: Final = 4 * 1024 * 1024
HASH_BYTES: Final = 32
_ADDRESS_BYTES = 20

Counter = Annotated[int, Meta(ge=0, le=2**63 - 1)]
UnixNanoseconds = Annotated[int, Meta(ge=0, le=2**63 - 1)]
HashOrNothing = Annotated[bytes, Meta(max_length=HASH_BYTES)]


class BlockId(Record, frozen=True, kw_only=True):
    """Header hash, and the parts the block travelled in; all empty before the first block."""

    header_hash: HashOrNothing
    parts_total: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    parts_hash: HashOrNothing

    def encode(self) -> bytes:
        """The bytes that headers hash and votes sign."""
        return encode_block_id(self.header_hash, self.parts_total, self.parts_hash)


class Header(Record, frozen=True, kw_only=True):
    """The fourteen fields that the header hash covers. `app_hash` is that of the state before this block."""

    block_version: Counter
    app_version: Counter
    chain_id: Annotated[str, Meta(min_length=1, max_length=50)]
    height: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    unix_nanoseconds: UnixNanoseconds
    last_block_id: BlockId
    last_commit_hash: HashOrNothing
    data_hash: HashOrNothing
    validators_hash: HashOrNothing
    next_validators_hash: HashOrNothing
    consensus_hash: HashOrNothing
    app_hash: Annotated[bytes, Meta(max_length=1024)]
    last_results_hash: HashOrNothing
    evidence_hash: HashOrNothing
    proposer_address: Annotated[bytes, Meta(min_length=_ADDRESS_BYTES, max_length=_ADDRESS_BYTES)]

    def compute_hash(self) -> bytes:
        """32 bytes that name the block."""
        hashed = (
            self.last_commit_hash,
            self.data_hash,
            self.validators_hash,
            self.next_validators_hash,
            self.consensus_hash,
            self.app_hash,
            self.last_results_hash,
            self.evidence_hash,
            self.proposer_address,
        )
        leaves = [
            encode_version(self.block_version, self.app_version),
            encode_bytes_value(self.chain_id.encode()),
            encode_integer_value(self.height),
            encode_timestamp(self.unix_nanoseconds),
            self.last_block_id.encode(),
            *map(encode_bytes_value, hashed),
        ]
        return compute_tree_hash(leaves)


class Vote(Record, frozen=True, kw_only=True):
    """One validator's precommit: for the block, for none, or absent (then everything else is empty)."""

    kind: Annotated[int, Meta(ge=ABSENT, le=FOR_NIL)]
    address: Annotated[bytes, Meta(max_length=_ADDRESS_BYTES)]
    unix_nanoseconds: UnixNanoseconds
    signature: Annotated[bytes, Meta(max_length=64)]


class Commit(Record, frozen=True, kw_only=True):
    """The votes that ended a height, in the order of the validator set."""

    height: Counter
    round_number: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    block_id: BlockId
    votes: Annotated[tuple[Vote, ...], Meta(max_length=MAX_VALIDATORS)]


class Validator(Record, frozen=True, kw_only=True):
    """A consensus key and its voting power."""

    public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    voting_power: Annotated[int, Meta(ge=1, le=MAX_TOTAL_POWER)]

    @property
    def address(self) -> bytes:
        """20 bytes that the engine calls this key by; not an account's address."""
        return hashlib.sha256(self.public_key).digest()[:_ADDRESS_BYTES]


class LightBlock(Record, frozen=True, kw_only=True):
    """A header with the votes for it and the validators who cast them."""

    header: Header
    commit: Commit
    validators: Annotated[tuple[Validator, ...], Meta(min_length=1, max_length=MAX_VALIDATORS)]

    @property
    def height(self) -> int:
        """Height of the header."""
        return self.header.height


def encode_light_block(block: LightBlock) -> bytes:
    """The one encoding of a light block, to store it."""
    return encode(block)


def decode_light_block(data: bytes) -> LightBlock:
    """A light block from untrusted bytes, every length and range checked.

    Errors: InvalidBlock too-large, malformed, non-canonical.
    """
    return decode(LightBlock, data, limit_bytes=MAX_LIGHT_BLOCK_BYTES, error=InvalidBlock)


def compute_tree_hash(leaves: Sequence[bytes]) -> bytes:
    """Root of the tree that splits at the largest power of two below the number of leaves."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    # Pairing from the left and carrying a lone last node up splits every level at that same power of two.
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def compute_validators_hash(validators: Sequence[Validator]) -> bytes:
    """32 bytes that bind keys, powers and order of a validator set."""
    return compute_tree_hash([encode_validator(found.public_key, found.voting_power) for found in validators])


def check_light_block(block: LightBlock) -> bytes:
    """The header's hash, when header, commit and validator set belong to each other.

    Errors: InvalidBlock malformed, unsupported-version, wrong-height, wrong-header, validators-mismatch, bad-signature
    (a vote stands in another validator's place).
    """
    _check_header(block.header)
    _check_validators(block)
    commit = block.commit
    if commit.height != block.height:
        raise InvalidBlock("wrong-height", f"header {block.height} comes with a commit for height {commit.height}")
    header_hash = block.header.compute_hash()
    if commit.block_id.header_hash != header_hash:
        raise InvalidBlock(
            "wrong-header", f"the commit is for {commit.block_id.header_hash.hex()}, the header is {header_hash.hex()}"
        )
    if len(commit.votes) != len(block.validators):
        raise InvalidBlock("malformed", f"{len(commit.votes)} votes of {len(block.validators)} validators")
    for index, (vote, validator) in enumerate(zip(commit.votes, block.validators, strict=True)):
        _check_vote(index, vote, validator)
    return header_hash


def _check_header(header: Header) -> None:
    if header.block_version != BLOCK_PROTOCOL:
        raise InvalidBlock(
            "unsupported-version", f"block protocol {header.block_version}; this client reads {BLOCK_PROTOCOL}"
        )
    hashes = {
        "last_commit_hash": header.last_commit_hash,
        "data_hash": header.data_hash,
        "validators_hash": header.validators_hash,
        "next_validators_hash": header.next_validators_hash,
        "consensus_hash": header.consensus_hash,
        "last_results_hash": header.last_results_hash,
        "evidence_hash": header.evidence_hash,
    }
    for name, found in hashes.items():
        if len(found) not in {0, HASH_BYTES}:
            raise InvalidBlock("malformed", f"{name} has {len(found)} bytes, not {HASH_BYTES}")


def _check_validators(block: LightBlock) -> None:
    validators = block.validators
    total = sum(validator.voting_power for validator in validators)
    if total > MAX_TOTAL_POWER:
        raise InvalidBlock("malformed", f"validators with {total} power together, at most {MAX_TOTAL_POWER}")
    if len({validator.public_key for validator in validators}) != len(validators):
        raise InvalidBlock("malformed", "a validator stands twice in the set")
    found = compute_validators_hash(validators)
    if found != block.header.validators_hash:
        raise InvalidBlock(
            "validators-mismatch",
            f"header {block.height} names the set {block.header.validators_hash.hex()}, given is {found.hex()}",
        )


def _check_vote(index: int, vote: Vote, validator: Validator) -> None:
    if vote.kind == ABSENT:
        if vote.address or vote.unix_nanoseconds or vote.signature:
            raise InvalidBlock("malformed", f"vote {index} is absent and yet carries something")
    elif vote.address != validator.address:
        raise InvalidBlock(
            "bad-signature", f"vote {index} is of {vote.address.hex()}, in its place stands {validator.address.hex()}"
        )
