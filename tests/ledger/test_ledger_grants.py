"""Scoped grants, rule by rule: which messages, up to when, for how much, and who pays."""

from __future__ import annotations

import re

import msgspec
import pytest
from account_chain import TO, AccountChain, make_keys
from chain_harness import MODEL, PARAMS
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.errors import InvalidTransaction
from paceline.ledger import grants
from paceline.ledger.accounts import RESERVE, get_account
from paceline.ledger.admission import compute_transaction_hash
from paceline.ledger.grants import ENDING, GRANTS, LONGEST_GRANT, MOST_GRANTS, SCOPES, Grant, find_violations
from paceline.ledger.prices import VOTES
from paceline.ledger.sessions import SESSIONS, compute_session_id
from paceline.protocol import messages as m
from paceline.protocol.codec import decode, encode
from paceline.protocol.grants import MAX_KINDS, GrantScope, RevokeScope
from paceline.protocol.openings import OpenSession
from paceline.protocol.prices import VotePrice

FEE = PARAMS.transfer_fee


@pytest.fixture
def chain():
    return AccountChain()


def opening(chain, deposit=10**9):
    return OpenSession(chain.keys[0].address, MODEL, deposit)


def test_an_operator_key_without_coins_votes_for_its_node(chain):
    node = chain.keys[1]
    chain.grant(chain.user, ["vote-price"])
    chain.send(chain.user, m.Transfer(node.address, 10 * FEE))
    chain.block()
    chain.grant(node, ["describe-node", "vote-price"])
    assert chain.act(chain.hot, node.address, VotePrice(77)) == "ok"
    assert chain.act(chain.hot, node.address, m.DescribeNode("http://new", "", (MODEL,))) == "ok"
    chain.block()
    assert chain.node(1).url == "http://new" and chain.left(node) == 0
    assert VOTES.get(chain.state, node.address) is not None
    assert get_account(chain.state, chain.hot.address).balance == 0
    # A grant of somebody who is no node makes nobody one.
    assert chain.act(chain.hot, chain.user.address, VotePrice(77)) == "not-a-node"


def test_a_hot_key_opens_sessions_on_coins_that_are_not_its_own(chain):
    deposit = 10**9
    chain.grant(
        chain.user, ["close-session", "open-session"], until=chain.height + 300, limit=2 * (deposit + FEE) + FEE
    )
    had, reserve = chain.balance(chain.user.address), chain.balance(RESERVE)
    data = chain.sign_granted(chain.hot, chain.user.address, opening(chain, deposit), sequence=0)
    assert chain.give(data) == "ok"
    chain.block()
    session_id = compute_session_id(chain.user.address, compute_transaction_hash(data))
    session = SESSIONS.get(chain.state, session_id)
    # What is not spent returns to the owner; the hot key signs for what is asked.
    assert (session.owner, session.owner_key) == (chain.user.address, chain.hot.public_key)
    assert chain.balance(chain.user.address) == had - deposit - FEE and chain.balance(RESERVE) == reserve + FEE
    assert chain.left(chain.user) == deposit + 2 * FEE
    assert get_account(chain.state, chain.hot.address).sequence == 1
    assert get_account(chain.state, chain.user.address).sequence == 0
    assert chain.act(chain.hot, chain.user.address, m.CloseSession(session_id)) == "ok"
    chain.block()
    chain.run_until(lambda: SESSIONS.get(chain.state, session_id) is None, limit=100)
    # The deposit is back with its owner, less what an idle session costs; the limit is not.
    assert had - deposit < chain.balance(chain.user.address) and chain.left(chain.user) == deposit + FEE
    assert chain.act(chain.hot, chain.user.address, opening(chain, deposit)) == "ok"
    chain.block()
    assert chain.left(chain.user) == 0


def test_invalid_acts_move_nothing(chain):
    user = chain.user.address
    assert chain.act(chain.hot, user, opening(chain)) == "no-grant"
    chain.grant(chain.user, ["open-session"], limit=10**9)
    before = chain.balance(user)
    for message, code in (
        (m.Transfer(TO, 1), "out-of-scope"),
        (GrantScope(TO, ("open-session",), 10**6, 1), "out-of-scope"),
        (RevokeScope(chain.hot.address), "out-of-scope"),
        (m.CloseSession(bytes(16)), "out-of-scope"),
        (VotePrice(5), "out-of-scope"),
        (opening(chain, 10**9 - FEE + 1), "over-limit"),
        (opening(chain, 0), "small-deposit"),
    ):
        assert chain.act(chain.hot, user, message) == code
    # A key of its own grant, somebody else's, and an owner without coins.
    assert chain.act(chain.keys[2], user, opening(chain)) == "no-grant"
    assert chain.act(chain.hot, chain.hot.address, opening(chain)) == "no-grant"
    chain.block()
    assert chain.balance(user) == before and chain.left(chain.user) == 10**9


def test_a_message_that_fails_in_its_block_costs_the_fee_within_the_limit(chain):
    chain.grant(chain.user, ["open-session"], limit=FEE + 5)
    bad = chain.sign_granted(chain.hot, chain.user.address, opening(chain))
    more = chain.sign_granted(chain.hot, chain.user.address, opening(chain))
    found = chain.application.finalize_block(chain.height + 1, [bad, more])
    assert [result.code for result in found.results] == ["over-limit", "over-limit"]
    state = chain.application.read()
    first, second = (chain.application.deliver(state, data) for data in (bad, more))
    assert (
        first.message.startswith("takes 1000000000") and second.message == f"takes {FEE} nicoin, the grant has 5 left"
    )
    assert GRANTS.get(state, chain.user.address + chain.hot.address).left == 5


def test_a_grant_ends_with_its_last_height(chain):
    until = chain.height + 4
    chain.grant(chain.user, ["close-session", "open-session"], until=until, limit=10**12)
    while chain.height < until - 1:
        assert chain.act(chain.hot, chain.user.address, opening(chain)) == "ok"
        chain.block()
    # In its last height it still holds.
    assert chain.act(chain.hot, chain.user.address, opening(chain)) == "ok"
    chain.block()
    assert chain.height == until and chain.left(chain.user) is None and ENDING.items(chain.state) == []
    assert chain.act(chain.hot, chain.user.address, opening(chain)) == "no-grant"


def test_a_revoked_grant_is_gone_and_may_be_given_anew(chain):
    chain.grant(chain.user, ["open-session"], limit=10**12)
    chain.send(chain.user, RevokeScope(chain.hot.address))
    # Before the block too: what follows the revocation in it is refused.
    assert chain.act(chain.hot, chain.user.address, opening(chain)) == "no-grant"
    chain.block()
    assert chain.refuse(chain.user, RevokeScope(chain.hot.address)) == "no-grant"
    chain.grant(chain.user, ["vote-price"], until=chain.height + 2)
    assert chain.left(chain.user) == 0


def test_invalid_grants(chain):
    hot, height = chain.hot.address, chain.height + 1
    kinds = ("open-session",)
    for message, code in (
        (GrantScope(chain.user.address, kinds, height + 9, 0), "own-account"),
        (GrantScope(hot, ("transfer",), height + 9, 0), "unknown-scope"),
        (GrantScope(hot, ("grant-scope",), height + 9, 0), "unknown-scope"),
        (GrantScope(hot, ("vote-price", "open-session"), height + 9, 0), "wrong-order"),
        (GrantScope(hot, ("open-session",) * 2, height + 9, 0), "wrong-order"),
        (GrantScope(hot, kinds, height, 0), "past-height"),
        (GrantScope(hot, kinds, height + LONGEST_GRANT + 1, 0), "far-height"),
    ):
        assert chain.refuse(chain.user, message) == code
    for index, key in enumerate(make_keys(MOST_GRANTS, "many")):
        chain.send(chain.user, GrantScope(key.address, kinds, height + LONGEST_GRANT - index, 0))
    assert chain.refuse(chain.user, GrantScope(hot, kinds, height + 9, 0)) == "too-many-grants"
    known = make_keys(MOST_GRANTS, "many")[0].address
    assert chain.refuse(chain.user, GrantScope(known, kinds, height + 9, 0)) == "already-granted"
    chain.block()
    # Others are not hindered by it.
    chain.send(chain.keys[0], VotePrice(5))
    assert chain.give(chain.sign_joint(GrantScope(hot, kinds, height + 9, 5))) == "ok"
    chain.block()


@pytest.mark.parametrize(
    "message",
    [
        GrantScope(b"x" * 19, ("open-session",), 5, 0),
        GrantScope(b"x" * 20, (), 5, 0),
        GrantScope(b"x" * 20, ("a",) * (MAX_KINDS + 1), 5, 0),
        GrantScope(b"x" * 20, ("A",), 5, 0),
        GrantScope(b"x" * 20, ("a",), -1, 0),
        GrantScope(b"x" * 20, ("a",), 5, 10**18 + 1),
        RevokeScope(b""),
    ],
)
def test_invalid_fields_do_not_decode(message):
    with pytest.raises(Exception, match="malformed") as refused:
        decode(type(message), encode(message), limit_bytes=10**4)
    assert refused.value.code == "malformed"


def test_joint_accounts_give_and_hold_grants(chain):
    policy = chain.policy.address
    until = chain.height + 50
    granting = chain.sign_joint(GrantScope(chain.hot.address, ("open-session",), until, 10**10))
    assert chain.give(granting) == "ok"
    chain.send(chain.user, GrantScope(policy, ("close-session", "open-session"), until, 10**10))
    chain.block()
    # A joint account cannot sign vouchers, but the key that it trusts can.
    assert chain.act(chain.hot, policy, opening(chain)) == "ok"
    assert chain.give(chain.sign_joint(opening(chain), owner=chain.user.address)) == "needs-one-key"
    assert chain.give(chain.sign_joint(m.CloseSession(bytes(16)), owner=chain.user.address)) == "unknown-session"
    chain.block()
    assert [session.owner for _, session in SESSIONS.items(chain.state)] == [policy]


def test_scopes_are_messages_by_their_tags_and_none_of_them_gives_or_grants():
    assert list(SCOPES) == sorted(SCOPES) and len(SCOPES) <= MAX_KINDS
    for tag, kind in SCOPES.items():
        assert kind.__struct_config__.tag == tag and re.fullmatch("[a-z][a-z-]*", tag)
    never = {"transfer", "transfer-asset", "buy-coins", "redeem-coins", "grant-scope", "revoke-scope"}
    never |= {"register-node", "leave-network", "submit-proposal", "register-group-key"}
    never |= {"buy-credits", "use-credits", "return-credits", "withdraw-asset"}
    assert never & set(SCOPES) == set()


def test_of_many_grants_that_end_at_one_height_some_wait_and_none_is_used(chain, monkeypatch):
    monkeypatch.setattr(grants, "MOST_ENDS", 2)
    until = chain.height + 6
    for number in range(5):
        chain.send(chain.user, GrantScope(bytes([number]) * 20, ("vote-price",), until, 0))
    chain.grant(chain.user, ["vote-price"], until=until)
    chain.run_until(lambda: chain.height == until)
    assert len(GRANTS.items(chain.state)) == 4
    state = chain.state.branch()
    state.height = until + 1
    with pytest.raises(InvalidTransaction, match="no longer"):
        grants.require_grant(state, chain.user.address, chain.hot.address, VotePrice(1))
    chain.block()
    chain.block()
    assert GRANTS.items(chain.state) == ENDING.items(chain.state) == []


def test_violations_are_found(chain):
    chain.grant(chain.user, ["open-session"], limit=5)
    state = chain.state
    ((key, grant),) = GRANTS.items(state)
    assert find_violations(state) == []
    GRANTS.put(state, key, msgspec.structs.replace(grant, left=-1))
    assert find_violations(state) == [f"grant {key.hex()}: -1 nicoin left up to height {grant.until}"]
    GRANTS.put(state, key, Grant(grant.kinds, state.height, 0))
    assert find_violations(state) == ["grants: their ends are not listed as they are"]
    GRANTS.delete(state, key)
    assert find_violations(state) == ["grants: their ends are not listed as they are"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["open", "close", "block", "fail"]), st.integers(0, 3)), max_size=14))
def test_whatever_a_key_sends_takes_at_most_its_limit(steps):
    chain = AccountChain()
    limit = 3 * 10**9
    chain.grant(chain.user, ["close-session", "open-session"], limit=limit, until=chain.height + 9)
    had, opened = chain.balance(chain.user.address), []
    for kind, size in steps:
        if kind == "block":
            chain.block()
        elif kind == "open":
            data = chain.sign_granted(chain.hot, chain.user.address, opening(chain, (size + 1) * 5 * 10**8))
            if chain.give(data) == "ok":
                opened.append(compute_session_id(chain.user.address, compute_transaction_hash(data)))
        elif kind == "close" and opened:
            chain.act(chain.hot, chain.user.address, m.CloseSession(opened[size % len(opened)]))
        else:
            chain.act(chain.hot, chain.user.address, m.Transfer(TO, 10**9))
    chain.block()
    escrow = sum(session.left for _, session in SESSIONS.items(chain.state))
    assert had - chain.balance(chain.user.address) <= limit and chain.balance(TO) == 0
    assert escrow <= limit and (chain.left(chain.user) or 0) <= limit - escrow
    assert grants.find_violations(chain.state) == []
