"""Which validators really voted for a block: every signature that is there is verified, not only as many as are needed.

Knows nothing of thresholds or trust. The engine accepts a few ed25519 signatures that libsodium refuses (ZIP 215: its
equation ignores parts of small order). Only their own key's holder can make them; they count for nothing here, and do
not spoil the block either, or one validator could make every block unreadable for light clients (decision 015).
"""

from __future__ import annotations

import hashlib

from nacl import bindings
from nacl.exceptions import CryptoError

from paceline.base.errors import InvalidBlock
from paceline.base.keys import SIGNATURE_BYTES, verify_signature
from paceline.engine.light_blocks import ABSENT, FOR_BLOCK, LightBlock, Validator, Vote
from paceline.engine.protobuf import encode_precommit

_POINT_BYTES = 32
_ORDER = 2**252 + 27742317777372353535851937790883648493


def compute_vote_bytes(block: LightBlock, vote: Vote) -> bytes:
    """What the validator of this vote signed."""
    commit = block.commit
    block_id = commit.block_id.encode() if vote.kind == FOR_BLOCK else b""
    return encode_precommit(block.header.chain_id, commit.height, commit.round_number, block_id, vote.unix_nanoseconds)


def verify_votes(block: LightBlock) -> list[Validator]:
    """Validators whose signature for this block holds. The block passed `check_light_block`.

    Errors: InvalidBlock bad-signature, also for a vote that would not be counted.
    """
    signers = []
    for index, (vote, validator) in enumerate(zip(block.commit.votes, block.validators, strict=True)):
        if vote.kind == ABSENT:
            continue
        message = compute_vote_bytes(block, vote)
        if verify_signature(validator.public_key, message, vote.signature):
            if vote.kind == FOR_BLOCK:
                signers.append(validator)
        elif not is_signed_for_engine_only(validator.public_key, message, vote.signature):
            raise InvalidBlock(
                "bad-signature", f"vote {index} at height {block.height} is not signed by {validator.address.hex()}"
            )
    return signers


def is_signed_for_engine_only(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when a signature that libsodium refused satisfies the equation times eight. It may never count.

    Keys of small order are out: anyone could sign for them.
    """
    if len(signature) != SIGNATURE_BYTES:
        return False
    point, scalar = signature[:_POINT_BYTES], signature[_POINT_BYTES:]
    if int.from_bytes(scalar, "little") >= _ORDER:
        return False
    challenge = hashlib.sha512(point + public_key + message).digest()
    try:
        factor = bindings.crypto_core_ed25519_scalar_reduce(challenge)
        key_part = bindings.crypto_scalarmult_ed25519_noclamp(factor, _times_eight(public_key))
        right = bindings.crypto_core_ed25519_add(_times_eight(point), key_part)
        left = _times_eight(bindings.crypto_scalarmult_ed25519_base_noclamp(scalar))
    except CryptoError:
        return False
    return left == right


def _times_eight(point: bytes) -> bytes:
    for _ in range(3):
        point = bindings.crypto_core_ed25519_add(point, point)
    return point
