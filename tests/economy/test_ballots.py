"""Ballots: what weights make of votes, at every edge of quorum, veto and majority."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.economy.ballots import (
    MORE_THAN_A_THIRD,
    MORE_THAN_TWO_THIRDS,
    NO_QUORUM,
    PASSED,
    REJECTED,
    VETOED,
    Tally,
    count_ballots,
    judge_tally,
)
from paceline.protocol.params import GovernanceParams
from paceline.protocol.proposals import ABSTAIN, NO, VETO, YES

QUORUM = GovernanceParams().quorum_ppm
CHOICES = st.sampled_from([YES, NO, ABSTAIN, VETO])
WEIGHTS = st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(1, 10**12), min_size=1, max_size=12)


def judge(*, thirds=MORE_THAN_A_THIRD, quorum=QUORUM, **fields):
    return judge_tally(Tally(**fields), quorum, thirds)


def test_weights_of_the_end_count_and_whoever_has_none_counts_nothing():
    choices = {b"a": YES, b"b": NO, b"c": ABSTAIN, b"d": VETO, b"gone": YES}
    tally = count_ballots(choices, {b"a": 5, b"b": 4, b"c": 3, b"d": 2, b"silent": 1})
    assert tally == Tally(yes=5, no=4, abstain=3, veto=2, total=15)
    assert tally.voted == 14


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"total": 0}, NO_QUORUM),
        ({"total": 10}, NO_QUORUM),
        ({"yes": 333_999, "total": 1_000_000}, NO_QUORUM),
        ({"yes": 334_000, "total": 1_000_000}, PASSED),
        ({"abstain": 500, "total": 1_000}, REJECTED),
        # Exactly half of the decided votes is not enough, one more is.
        ({"yes": 500, "no": 500, "total": 1_000}, REJECTED),
        ({"yes": 501, "no": 499, "total": 1_000}, PASSED),
        # Abstaining helps the quorum and decides nothing, but yes needs a third of all weight.
        ({"yes": 400, "no": 100, "abstain": 500, "total": 1_000}, PASSED),
        ({"yes": 100, "abstain": 200, "no": 50, "total": 600}, REJECTED),
        ({"yes": 200, "abstain": 200, "no": 50, "total": 600}, REJECTED),
        ({"yes": 201, "abstain": 200, "no": 50, "total": 600}, PASSED),
        # A third of the votes vetoes, however many said yes; a little less only counts as no.
        ({"yes": 200, "veto": 100, "total": 300}, VETOED),
        ({"yes": 201, "veto": 99, "total": 300}, PASSED),
        ({"yes": 100, "no": 101, "veto": 99, "total": 300}, REJECTED),
        ({"veto": 300, "total": 300}, VETOED),
        ({"veto": 99, "total": 300}, NO_QUORUM),
    ],
)
def test_the_edges_of_quorum_veto_and_majority(fields, outcome):
    assert judge(**fields) == outcome


@pytest.mark.parametrize(("yes", "outcome"), [(200, REJECTED), (201, PASSED), (300, PASSED)])
def test_rules_that_stop_others_need_more_than_two_thirds_of_all_weight(yes, outcome):
    assert judge(yes=yes, total=300, thirds=MORE_THAN_TWO_THIRDS) == outcome
    assert judge(yes=yes, total=300) == PASSED


@given(WEIGHTS, st.data())
def test_less_than_a_third_passes_nothing_whatever_the_others_do(weights, data):
    """The promise holds also where honest votes against a proposal bring the quorum about."""
    choices = {address: data.draw(CHOICES) for address in weights if data.draw(st.booleans())}
    tally = count_ballots(choices, weights)
    cartel = sum(weights[address] for address, choice in choices.items() if choice == YES)
    if 3 * cartel <= tally.total:
        assert judge_tally(tally, 0, MORE_THAN_A_THIRD) != PASSED


@given(WEIGHTS, st.data())
def test_splitting_an_identity_decides_the_same(weights, data):
    choices = {address: data.draw(CHOICES) for address in weights}
    split_weights, split_choices = {}, {}
    for address, weight in weights.items():
        parts = data.draw(st.integers(1, min(4, weight)))
        for index in range(parts):
            key = address + b"/" + bytes([index])
            split_weights[key] = weight // parts + (weight % parts if index == 0 else 0)
            split_choices[key] = choices[address]
    before, after = count_ballots(choices, weights), count_ballots(split_choices, split_weights)
    assert before == after


@given(WEIGHTS, st.data())
def test_another_yes_never_turns_a_pass_into_a_refusal(weights, data):
    choices = {address: data.draw(CHOICES) for address in weights if data.draw(st.booleans())}
    before = judge_tally(count_ballots(choices, weights), QUORUM, MORE_THAN_A_THIRD)
    missing = [address for address in weights if address not in choices]
    if before == PASSED and missing:
        choices[data.draw(st.sampled_from(missing))] = YES
        assert judge_tally(count_ballots(choices, weights), QUORUM, MORE_THAN_A_THIRD) == PASSED
