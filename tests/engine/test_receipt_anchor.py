"""A user's receipt under CometBFT: its values stand under the header that its user proved by other means, and under no other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from light_chain import make_block, make_set

from paceline.base.errors import Invalid
from paceline.engine.light_blocks import encode_light_block
from paceline.node.answers.receipt_check import _verify_anchor
from paceline.node.answers.receipt_facts import UserReceipt

APP_HASH = b"a" * 32
MEMBERS = make_set([1, 1, 1])
HEADER = make_block(8, MEMBERS, app_hash=APP_HASH, chain_id="made")
HASH = HEADER.header.compute_hash()
GENESIS = SimpleNamespace(sequencer=bytes(32))


def make_receipt(block=HEADER, **changes) -> UserReceipt:
    fields = {
        "version": 1,
        "chain_id": "made",
        "task": bytes(32),
        "engine": "cometbft",
        "height": 7,
        "anchor": encode_light_block(block),
        "values": (),
        "payload": b"",
        "text": "",
        "signature": bytes(64),
        **changes,
    }
    return UserReceipt(**fields)


def refuse(receipt, header_hash=HASH) -> str:
    with pytest.raises(Invalid) as caught:
        _verify_anchor(receipt, GENESIS, header_hash)
    return caught.value.code


def test_the_next_header_gives_the_state_s_hash():
    app_hash, signed_by = _verify_anchor(make_receipt(), GENESIS, HASH)
    assert app_hash == APP_HASH
    assert "height 8" in signed_by


def test_invalid_header_that_the_user_did_not_prove():
    assert refuse(make_receipt(), None) == "untrusted-header"
    assert refuse(make_receipt(), bytes(32)) == "untrusted-header"
    forged = make_block(8, MEMBERS, app_hash=b"b" * 32, chain_id="made")
    assert refuse(make_receipt(forged)) == "untrusted-header"


def test_invalid_header_of_another_height_or_chain():
    assert refuse(make_receipt(height=8)) == "wrong-height"
    assert refuse(make_receipt(height=6)) == "wrong-height"
    assert refuse(make_receipt(chain_id="other")) == "wrong-chain"
    assert refuse(make_receipt(anchor=b"\x00")) == "malformed"
