"""The bridge's rules on the ledger: who attests, what stands for good, which events are deposits, what goes out."""

from __future__ import annotations

import msgspec
import pytest
from bridge_setup import (
    BRIDGED,
    CHAIN,
    CONTRACT,
    SENDER,
    TOPIC,
    BridgeDesk,
    OtherChain,
    make_chain,
    make_log,
    make_receipt,
)
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_chain import DOLLAR, Desk, PoolChain

from paceline.base.errors import InvalidTransaction
from paceline.economy.denominations import MAX_DOLLARS
from paceline.ledger import bridge, nodes, pools
from paceline.ledger.accounts import LIQUIDITY
from paceline.ledger.asset import compute_outstanding, get_dollars
from paceline.ledger.bridge import HEADERS, OPEN, VOTES, WITHDRAWALS
from paceline.protocol.bridge import AttestHeader, ClaimDeposit, WithdrawAsset
from paceline.protocol.params import BridgeParams

TO = b"\x70" * 20


@pytest.fixture(scope="module")
def chain():
    return make_chain()


@pytest.fixture
def desk(chain):
    return BridgeDesk(chain)


# Headers.


def test_over_two_thirds_of_power_make_a_header(desk, chain):
    block = OtherChain(make_receipt(make_log(TO, DOLLAR)))
    desk.attest(block, voters=(0, 1, 2))
    assert HEADERS.items(desk.state) == [] and len(VOTES.items(desk.state)) == 3
    desk.attest(block, voters=(3,))
    ((_, header),) = HEADERS.items(desk.state)
    assert header == bridge.Header(block.block_hash, block.tree.root_hash)
    assert VOTES.items(desk.state) == [] == OPEN.items(desk.state)
    assert desk.do(chain.keys[4], block.attest()) == "already-attested"
    assert desk.do(chain.keys[4], block.attest(block_hash=bytes(32))) == "already-attested"


def test_exactly_two_thirds_are_not_enough():
    chain = make_chain()
    state = chain.state
    for key, power in zip(chain.keys, (2, 2, 2, 0, 0), strict=True):
        nodes.update_node(state, key.address, voting_power=power)
    params = msgspec.structs.replace(BRIDGED, power_total=6)
    message = OtherChain(make_receipt()).attest()
    for key in chain.keys[:2]:
        bridge.apply_attestation(state, params, key.address, message)
    assert HEADERS.items(state) == []
    bridge.apply_attestation(state, params, chain.keys[2].address, message)
    assert len(HEADERS.items(state)) == 1


def test_votes_on_different_headers_do_not_add_up_and_the_last_word_counts(desk, chain):
    block, other = OtherChain(make_receipt()), OtherChain(make_receipt(status=0))
    desk.attest(block, voters=(0, 1))
    desk.attest(other, voters=(2, 3))
    assert HEADERS.items(desk.state) == []
    desk.attest(block, voters=(2, 3))
    assert len(HEADERS.items(desk.state)) == 1


def test_who_has_no_power_any_more_counts_nothing(desk, chain):
    block = OtherChain(make_receipt())
    desk.attest(block, voters=(0, 1, 2))
    nodes.NODES.delete(desk.state, chain.keys[0].address)
    bridge.apply_attestation(desk.state, BRIDGED, chain.keys[3].address, block.attest())
    assert HEADERS.items(desk.state) == []


def test_invalid_attestations(desk, chain):
    block = OtherChain(make_receipt())
    assert desk.do(chain.keys[0], block.attest(chain=1)) == "wrong-bridge"
    assert desk.do(chain.user, block.attest()) == "not-a-node"
    nodes.update_node(desk.state, chain.keys[0].address, voting_power=0)
    with pytest.raises(InvalidTransaction, match="no-vote"):
        bridge.apply_attestation(desk.state, BRIDGED, chain.keys[0].address, block.attest())
    with pytest.raises(InvalidTransaction, match="no-vote"):
        bridge.apply_attestation(desk.state, BRIDGED, chain.user.address, block.attest())
    bridge.apply_attestation(desk.state, BRIDGED, chain.keys[1].address, block.attest())
    with pytest.raises(InvalidTransaction, match="already-attested"):
        bridge.apply_attestation(desk.state, BRIDGED, chain.keys[1].address, block.attest())


def test_open_votes_of_a_node_are_bounded_the_oldest_goes(desk, chain):
    for number in range(10):
        desk.attest(OtherChain(make_receipt(), number=number), voters=(0,))
    assert OPEN.get(desk.state, chain.keys[0].address) == (7, 8, 9)
    assert len(VOTES.items(desk.state)) == 3
    desk.attest(OtherChain(make_receipt(status=0), number=8), voters=(0,))
    assert OPEN.get(desk.state, chain.keys[0].address) == (7, 8, 9)
    desk.attest(OtherChain(make_receipt(), number=8), voters=(0, 1, 2, 3))
    assert OPEN.get(desk.state, chain.keys[0].address) == (7, 9)


# Deposits.


def test_a_deposit_is_credited_whoever_shows_it(desk, chain):
    block = desk.settle(make_receipt(make_log(b"o" * 20, 1, topics=[]), make_log(TO, 5 * DOLLAR), kind=0))
    assert desk.do(chain.user, block.claim(log=1)) == "ok"
    assert get_dollars(desk.state, TO) == 5 * DOLLAR == compute_outstanding(desk.state)
    assert desk.do(chain.user, block.claim(log=1)) == "already-claimed"


def test_two_deposits_of_one_transaction_are_two(desk, chain):
    block = desk.settle(make_receipt(make_log(TO, 1), make_log(TO, 2)))
    for log in (0, 1):
        assert desk.do(chain.user, block.claim(log=log)) == "ok"
    assert get_dollars(desk.state, TO) == 3


@pytest.mark.parametrize(
    ("receipt", "code"),
    [
        (make_receipt(make_log(TO, 1), status=0), "no-deposit"),
        (make_receipt(), "no-deposit"),
        (make_receipt(make_log(TO, 1, address=b"x" * 20)), "no-deposit"),
        (make_receipt(make_log(TO, 1, address=b"")), "no-deposit"),
        (make_receipt(make_log(TO, 1, topics=[])), "no-deposit"),
        (make_receipt(make_log(TO, 1, topics=b"x")), "no-deposit"),
        (make_receipt(make_log(TO, 1, topics=[bytes(32), SENDER, TO.ljust(32, b"\0")])), "no-deposit"),
        (make_receipt(make_log(TO, 1, topics=[TOPIC, SENDER])), "no-deposit"),
        (make_receipt(make_log(TO, 1, topics=[TOPIC, SENDER, [TO]])), "no-deposit"),
        (make_receipt(make_log(TO, 1, topics=[TOPIC, SENDER, TO])), "no-deposit"),
        (make_receipt(make_log(TO, 1, topics=[TOPIC, SENDER, TO.ljust(32, b"\1")])), "no-deposit"),
        (make_receipt(make_log(TO, 1, data=b"\1")), "no-deposit"),
        (make_receipt(make_log(TO, 1, data=[b"\1"])), "no-deposit"),
        (make_receipt([CONTRACT, []]), "bad-receipt"),
        (make_receipt(b"log"), "bad-receipt"),
        (b"\xc3\x01\x01\x01", "bad-receipt"),
        (b"\xc4\x01\x01\x01\x01", "bad-receipt"),
        (b"\x02\x84logs", "bad-receipt"),
        (b"\x02" + b"\xf8", "bad-rlp"),
        (b"\x02", "bad-rlp"),
        (make_receipt(make_log(TO, 0)), "zero-amount"),
        (make_receipt(make_log(LIQUIDITY, 1)), "pool-address"),
        (make_receipt(make_log(TO, MAX_DOLLARS + 1)), "too-many-dollars"),
        (make_receipt(make_log(TO, 2**256 - 1)), "too-many-dollars"),
    ],
)
def test_invalid_deposits(desk, chain, receipt, code):
    block = desk.settle(receipt)
    assert desk.do(chain.user, block.claim()) == code
    assert compute_outstanding(desk.state) == 0 and bridge.CLAIMED.items(desk.state) == []


def test_invalid_claims(desk, chain):
    block = desk.settle(*[make_receipt(make_log(bytes([place + 1]) * 20, 1)) for place in range(20)])
    assert desk.do(chain.user, msgspec.structs.replace(block.claim(), number=8)) == "unknown-header"
    assert desk.do(chain.user, msgspec.structs.replace(block.claim(3), transaction=4)) == "bad-proof"
    assert desk.do(chain.user, msgspec.structs.replace(block.claim(3), transaction=2**32 - 1)) == "bad-proof"
    assert desk.do(chain.user, msgspec.structs.replace(block.claim(3), log=1)) == "no-deposit"
    assert desk.do(chain.user, msgspec.structs.replace(block.claim(3), proof=block.claim(3).proof[1:])) == "bad-proof"
    for proof in ((), (b"x",) * 17, (bytes(64 * 1024 + 1),)):
        assert desk.do(chain.user, msgspec.structs.replace(block.claim(3), proof=proof)) == "malformed"


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_for_a_receipt_are_refused(chain, receipt):
    desk = BridgeDesk(chain)
    block = desk.settle(receipt)
    assert desk.do(chain.user, block.claim()) in {"bad-rlp", "bad-receipt", "no-deposit"}


# Withdrawals.


def test_a_withdrawal_burns_and_leaves_a_numbered_record(desk, chain):
    block = desk.settle(make_receipt(make_log(chain.user.address, 9)))
    assert desk.do(chain.user, block.claim()) == "ok"
    assert desk.do(chain.user, WithdrawAsset(TO, 4)) == "ok"
    assert desk.do(chain.user, WithdrawAsset(TO, 5)) == "ok"
    found = WITHDRAWALS.items(desk.state)
    assert [(int.from_bytes(key, "big"), record.amount) for key, record in found] == [(0, 4), (1, 5)]
    assert compute_outstanding(desk.state) == 0
    for message, code in (
        (WithdrawAsset(TO, 0), "zero-amount"),
        (WithdrawAsset(TO, 1), "over-dollars"),
        (WithdrawAsset(bytes(20), 1), "bad-recipient"),
        (WithdrawAsset(CONTRACT, 1), "bad-recipient"),
    ):
        assert desk.do(chain.user, message) == code


def test_what_attesters_sign_names_chain_contract_number_recipient_and_amount():
    params = BridgeParams(chain=CHAIN, contract=CONTRACT)
    words = (CHAIN, int.from_bytes(CONTRACT, "big"), 5, int.from_bytes(TO, "big"), 7)
    packed = b"paceline-withdrawal".ljust(32, b"\0") + b"".join(word.to_bytes(32, "big") for word in words)
    assert bridge.compute_withdrawal_digest(params, 5, bridge.Withdrawal(TO, 7, 1)) == keccak(packed)


# Networks.


def test_a_network_without_a_bridge_refuses_it_all():
    chain = PoolChain()
    chain.block()
    desk = Desk(chain)
    assert desk.do(chain.keys[0], OtherChain(make_receipt()).attest()) == "no-bridge"
    assert desk.do(chain.user, ClaimDeposit(1, 0, 0, (b"x",))) == "no-bridge"
    assert desk.do(chain.user, WithdrawAsset(TO, 1)) == "no-bridge"


@pytest.mark.parametrize(("changes", "dollars"), [({"contract": b"short"}, False), ({"contract": CONTRACT}, True)])
def test_invalid_genesis(changes, dollars):
    given = PoolChain(dollars=DOLLAR if dollars else 0).genesis
    params = msgspec.structs.replace(given.params, bridge=BridgeParams(chain=CHAIN, **changes))
    with pytest.raises(InvalidTransaction, match="bad-genesis"):
        bridge.apply_genesis(msgspec.structs.replace(given, params=params))


def test_whatever_does_not_add_up_is_said(desk, chain):
    block = OtherChain(make_receipt())
    desk.attest(block, voters=(0,))
    address = chain.keys[0].address
    OPEN.put(desk.state, address, (1, 2, 3, 4))
    assert len(pools.find_violations(desk.state, BRIDGED)) == 2
    OPEN.delete(desk.state, address)
    assert len(pools.find_violations(desk.state, BRIDGED)) == 1


def test_fields_outside_their_bounds_do_not_decode(desk, chain):
    good = AttestHeader(CHAIN, 1, bytes(32), bytes(32))
    for changes in ({"number": -1}, {"number": 2**48 + 1}, {"chain": -1}, {"block_hash": b"x"}, {"receipts_root": b""}):
        assert desk.do(chain.keys[0], msgspec.structs.replace(good, **changes)) == "malformed"
    for message in (WithdrawAsset(b"x", 1), WithdrawAsset(TO, -1), WithdrawAsset(TO, 10**18 + 1)):
        assert desk.do(chain.user, message) == "malformed"
