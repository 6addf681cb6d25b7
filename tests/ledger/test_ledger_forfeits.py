"""The order in which a forfeit goes: what looking again cost, bounties, reports, the reserve; never more than there is."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.hashing import hash_parts
from paceline.ledger import bonds, forfeits, nodes
from paceline.ledger.accounts import ACCOUNTS, HELD_PAY, Account, get_account
from paceline.ledger.disputes import Vote
from paceline.ledger.forfeits import RECHECKS, REWARDS, note_rechecks, share_forfeits
from paceline.ledger.nodes import NODES, Node
from paceline.ledger.state import State
from paceline.ledger.tasks import GUILTY, Task
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.store.state import MemoryStateStore

CHEAT, ONE, TWO, USER = (bytes([letter]) * 20 for letter in b"cotu")
BOUNTY, REPORT = PARAMS.race.bounty, PARAMS.tasks.report_reward


def open_state(held):
    """Three nodes and so much held pay."""
    state = State(MemoryStateStore(), height=1)
    ACCOUNTS.put(state, HELD_PAY, Account(held))
    for address in (CHEAT, ONE, TWO):
        NODES.put(state, address, Node(address.hex(), b"", b"", b"", 1, 0, ()))
    return state


def make_task(**changes):
    zero = bytes(32)
    fields = {
        "session": zero[:16],
        "index": 0,
        "seed": zero,
        "owner": USER,
        "executor": CHEAT,
        "relay": TWO,
        "cost": 1_000,
        "payload_hash": zero,
        "prompt_hash": zero,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "epoch": 0,
        "height": 1,
        "status": GUILTY,
        "round_index": 0,
    }
    return Task(**fields | changes)


def balance(state, address):
    return get_account(state, address).balance


def test_who_looked_again_and_said_so_is_owed_its_part_by_weight():
    state = open_state(0)
    nodes.set_weights(state, PARAMS, {CHEAT: 50, ONE: 30, TWO: 20})
    votes = (Vote(ONE, REJECTED, "x", (1,)), Vote(TWO, ACCEPTED, "x", (1,)), Vote(USER, REJECTED, "x", ()))
    for _ in range(2):
        note_rechecks(state, PARAMS, make_task(votes=votes))
    # Twice 30 % of 400 for the one who showed numbers; nothing for who said the contrary, or nothing but a word.
    assert RECHECKS.items(state) == [(CHEAT + ONE, 240)]
    free = msgspec.structs.replace(PARAMS, tasks=msgspec.structs.replace(PARAMS.tasks, recheck_ppm=0))
    note_rechecks(state, free, make_task(votes=(Vote(TWO, REJECTED, "x", (1,)),)))
    assert RECHECKS.items(state) == [(CHEAT + ONE, 240)]


def test_more_names_are_not_paid_more_for_judging_again():
    paid = []
    for names in (1, 20):
        state, voters = open_state(0), [hash_parts("voter", bytes([name]))[:20] for name in range(names)]
        for voter in voters:
            NODES.put(state, voter, Node(voter.hex(), b"", b"", b"", 1, 0, ()))
        nodes.set_weights(state, PARAMS, {CHEAT: 100, **dict.fromkeys(voters, 100 // names)})
        note_rechecks(state, PARAMS, make_task(votes=tuple(Vote(voter, REJECTED, "x", (1,)) for voter in voters)))
        paid.append(sum(part for _, part in RECHECKS.items(state)))
    assert paid == [200, 200]


def test_looking_again_comes_first_then_the_bounty_then_the_report():
    rich = 10 * (BOUNTY + REPORT)
    for forfeit, paid in (
        (300 + BOUNTY + REPORT + 5, (300, BOUNTY, REPORT, 5)),
        (300 + BOUNTY + 7, (300, BOUNTY, 7, 0)),
        (300 + 9, (300, 9, 0, 0)),
        (200, (200, 0, 0, 0)),
    ):
        state = open_state(forfeit)
        RECHECKS.put(state, CHEAT + ONE, 300)
        bonds.promise_bounty(state, CHEAT, TWO)
        forfeits.promise_reward(state, CHEAT, USER)
        due = {CHEAT: forfeit, ONE: rich, TWO: rich}
        share_forfeits(state, PARAMS, due, {CHEAT: 0})
        assert (balance(state, ONE), balance(state, TWO), balance(state, USER), due[CHEAT]) == paid
        assert (NODES.get(state, ONE).earned, NODES.get(state, TWO).earned) == paid[:2]
        assert RECHECKS.items(state) == REWARDS.items(state) == bonds.BOUNTIES.items(state) == []


@pytest.mark.parametrize(("incomes", "bounty"), [({TWO: 40, ONE: 0}, 20), ({TWO: 40, ONE: 100}, 40), ({}, 0)])
def test_a_bounty_is_at_most_the_own_and_the_mean_income_of_honest_nodes(incomes, bounty):
    state = open_state(10**9)
    bonds.promise_bounty(state, CHEAT, TWO)
    share_forfeits(state, PARAMS, {CHEAT: 10**9, **incomes}, {CHEAT: 0})
    assert balance(state, TWO) == bounty


def test_the_guilty_and_the_innocent_neither_pay_nor_are_paid():
    state = open_state(1_000)
    RECHECKS.put(state, CHEAT + ONE, 100)
    RECHECKS.put(state, TWO + CHEAT, 100)
    RECHECKS.put(state, CHEAT + USER, 100)
    forfeits.promise_reward(state, TWO, USER)
    due = {CHEAT: 500, ONE: 300, TWO: 200}
    # The first voter is guilty as well, the second is no node, and the third accused somebody who is not guilty.
    share_forfeits(state, PARAMS, due, {CHEAT: 0, ONE: 0})
    assert due == {CHEAT: 500, ONE: 300, TWO: 200}
    assert balance(state, HELD_PAY) == 1_000
    assert RECHECKS.items(state) == REWARDS.items(state) == []


@given(
    forfeit=st.integers(0, 3 * (BOUNTY + REPORT)),
    owed=st.integers(0, 2 * BOUNTY),
    income=st.integers(0, 2 * BOUNTY),
    bounty=st.booleans(),
    report=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_never_more_than_the_forfeit(forfeit, owed, income, bounty, report):
    state = open_state(forfeit + income)
    if owed:
        RECHECKS.put(state, CHEAT + ONE, owed)
    if bounty:
        bonds.promise_bounty(state, CHEAT, TWO)
    if report:
        forfeits.promise_reward(state, CHEAT, USER)
    due = {CHEAT: forfeit, TWO: income}
    share_forfeits(state, PARAMS, due, {CHEAT: 0})
    paid = sum(balance(state, address) for address in (ONE, TWO, USER))
    assert due[CHEAT] == forfeit - paid >= 0
    assert balance(state, HELD_PAY) == due[CHEAT] + due[TWO]
    assert balance(state, ONE) == min(owed, forfeit)
