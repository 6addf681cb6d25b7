"""What a transaction must be, code by code."""

from __future__ import annotations

import pytest
from chain_harness import FUNDS, Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.keys import AccountKey
from paceline.economy.supply import TOTAL_SUPPLY
from paceline.ledger.accounts import RESERVE, compute_supply, get_account
from paceline.ledger.admission import signed_bytes
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import encode

TO = b"x" * 20


@pytest.fixture
def chain():
    return Chain()


def refuse(chain, data):
    with pytest.raises(InvalidTransaction) as refused:
        chain.sequencer.add_transaction(data)
    return refused.value.code


def test_transfer_moves_coins_and_pays_the_fee(chain):
    reserve = get_account(chain.state, RESERVE).balance
    chain.send(chain.user, m.Transfer(TO, 500), sequence=0)
    chain.block()
    fee = chain.params.transfer_fee
    assert get_account(chain.state, TO).balance == 500
    assert get_account(chain.state, chain.user.address).balance == FUNDS - 500 - fee
    assert get_account(chain.state, RESERVE).balance == reserve + fee or chain.height == 1
    assert compute_supply(chain.state) == TOTAL_SUPPLY


def test_transfer_of_everything_leaves_nothing(chain):
    chain.send(chain.user, m.Transfer(TO, FUNDS - chain.params.transfer_fee))
    chain.block()
    assert get_account(chain.state, chain.user.address).balance == 0


def test_invalid_over_balance_by_one(chain):
    data = chain.sign(chain.user, m.Transfer(TO, FUNDS - chain.params.transfer_fee + 1))
    assert refuse(chain, data) == "over-balance"


def test_invalid_zero_amount(chain):
    assert refuse(chain, chain.sign(chain.user, m.Transfer(TO, 0))) == "zero-amount"


def test_invalid_transfer_to_a_pool(chain):
    assert refuse(chain, chain.sign(chain.user, m.Transfer(RESERVE, 1))) == "pool-address"


def test_invalid_wrong_chain(chain):
    assert refuse(chain, chain.sign(chain.user, m.Transfer(TO, 1), chain_id="other-chain")) == "wrong-chain"


def test_invalid_signature(chain):
    data = bytearray(chain.sign(chain.user, m.Transfer(TO, 1)))
    data[-1] ^= 1
    assert refuse(chain, bytes(data)) == "bad-signature"


def test_invalid_signature_of_another_key(chain):
    body = encode(
        t.TransactionBody(chain_id=chain.application.chain_id, sequence=None, expires_at=50, message=m.Transfer(TO, 1))
    )
    other = AccountKey.from_secret(b"o" * 32)
    assert (
        refuse(chain, encode(t.Transaction(body, chain.user.public_key, other.sign(signed_bytes(body)))))
        == "bad-signature"
    )


def test_invalid_non_canonical_bytes(chain):
    data = chain.sign(chain.user, m.Transfer(TO, 1))
    # A 16-bit array header says the same as the short one, but is not how values are written here.
    assert data[0] == 0x93
    assert refuse(chain, b"\xdc\x00\x03" + data[1:]) == "non-canonical"


def test_invalid_malformed_and_oversized(chain):
    assert refuse(chain, b"\xc1") == "malformed"
    assert refuse(chain, bytes(m.MAX_TRANSACTION_BYTES + 1)) == "too-large"


def test_invalid_replay_of_ordered_and_unordered(chain):
    ordered = chain.sign(chain.user, m.Transfer(TO, 1), sequence=0)
    unordered = chain.sign(chain.user, m.Transfer(TO, 2))
    for data in (ordered, unordered):
        chain.sequencer.add_transaction(data)
    chain.block()
    assert refuse(chain, ordered) == "wrong-sequence"
    assert refuse(chain, unordered) == "replayed"
    assert get_account(chain.state, TO).balance == 3


def test_sequences_wait_for_each_other_in_one_block(chain):
    for sequence in range(5):
        chain.send(chain.user, m.Transfer(TO, 1), sequence=sequence)
    chain.block()
    assert get_account(chain.state, TO).balance == 5


def test_invalid_expiry(chain):
    chain.block()
    assert refuse(chain, chain.sign(chain.user, m.Transfer(TO, 1), expires_at=1)) == "expired"
    assert refuse(chain, chain.sign(chain.user, m.Transfer(TO, 1), expires_at=5_000)) == "far-expiry"


def test_a_replay_stays_refused_until_it_has_expired_anyway(chain):
    data = chain.sign(chain.user, m.Transfer(TO, 1), expires_at=5)
    chain.sequencer.add_transaction(data)
    for _ in range(4):
        chain.block()
        assert refuse(chain, data) == "replayed"
    chain.block()
    assert refuse(chain, data) == "expired"


def test_invalid_duty_of_somebody_who_is_no_node(chain):
    data = chain.sign(chain.user, m.CommitSeed(0, bytes(32)))
    assert refuse(chain, data) == "not-a-node"


def test_failed_message_keeps_its_fee_and_nothing_else(chain):
    good = chain.sign(chain.user, m.Transfer(TO, FUNDS // 2))
    also = chain.sign(chain.user, m.Transfer(TO, FUNDS // 2))
    chain.sequencer.add_transaction(good)
    with pytest.raises(InvalidTransaction):
        chain.sequencer.add_transaction(also)
    # A block that orders it all the same: the fee is taken, the message is not executed.
    result = chain.application.finalize_block(chain.height + 1, [good, also])
    assert [found.code for found in result.results] == ["ok", "over-balance"]
