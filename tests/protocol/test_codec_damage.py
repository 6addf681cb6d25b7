"""Untrusted bytes raise the typed error or decode to what they say; nothing else ever comes out of the decoder."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import encode

KEY = AccountKey.from_secret(hash_parts("codec-test"))
BODY = encode(t.TransactionBody(chain_id="test-1", sequence=None, expires_at=9, message=m.Transfer(KEY.address, 5)))
WHOLE = encode(t.Transaction(BODY, KEY.public_key, KEY.sign(BODY)))


def decodes(data):
    try:
        t.decode_transaction(data)
    except InvalidTransaction as problem:
        code = problem.code
    else:
        return True
    assert code in {"too-large", "malformed", "non-canonical"}
    return False


def test_the_undamaged_transaction_decodes():
    assert decodes(WHOLE)


def test_invalid_text_in_a_tag_is_malformed():
    at = BODY.index(b"transfer")
    damaged = BODY[:at] + b"\xf4" + BODY[at + 1 :]
    assert not decodes(encode(t.Transaction(damaged, KEY.public_key, bytes(64))))


@settings(max_examples=400)
@given(at=st.integers(0, len(BODY) - 1), value=st.integers(0, 255))
def test_every_single_damage_of_a_body_is_typed(at, value):
    damaged = BODY[:at] + bytes([value]) + BODY[at + 1 :]
    decodes(encode(t.Transaction(damaged, KEY.public_key, bytes(64))))


@settings(max_examples=300)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_typed(data):
    assert not decodes(data)
