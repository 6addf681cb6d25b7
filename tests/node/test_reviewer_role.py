"""A node that reviews: reports on its own claim without computing, drawn ones by recomputing, accused ones as a judge."""

from __future__ import annotations

import msgspec
import pytest
from test_racer_role import CHALLENGE, KEYS, ME, OTHER, PARAMS, act, commit, enter, get_hits, make_role, open_all, racer
from test_racer_role import state as racing_state

from paceline.ledger import race, race_checks, race_claims, race_reviews
from paceline.node.roles import reviewer
from paceline.node.roles.reviewer import Harvest
from paceline.protocol import messages as m
from paceline.protocol.codec import encode
from paceline.race.check import examine_nonces

state = racing_state
LAZY = KEYS[3]


def prepare(state, folder, hits, *, digest=None):
    """A claim of OTHER with a report of LAZY on it; the honest digest unless another is given."""
    role = make_role(state, folder, key=LAZY)
    enter(state, race.CLAIMS)
    open_all(state, OTHER, commit(state, OTHER, hits), role)
    [report] = [message for message in act(role, state) if isinstance(message, m.ReportRace)]
    if digest is not None:
        report = msgspec.structs.replace(report, digest=digest)
    race_checks.apply_report(state, PARAMS, LAZY.address, report)
    return report


def make_prover(state, folder, hits, *, known=None):
    """OTHER with the outputs that its search left."""
    role = make_role(state, folder / "prover", key=OTHER)
    outputs = [output for _, output in examine_nonces(CHALLENGE, OTHER.public_key, hits)]
    stored = Harvest(10_000, tuple(hits), tuple(outputs[: len(hits) if known is None else known]))
    racer.write_whole(role._path(0), encode(stored))
    return role


def make_drawn(state, folder, key=ME):
    """A node whose secret draw takes every report."""
    role = make_role(state, folder, key=key)
    reviewing = msgspec.structs.replace(PARAMS.race, review_ppm=5_000_000)
    role._context.params = msgspec.structs.replace(PARAMS, race=reviewing)
    return role


def get_accusations(messages):
    return [message for message in messages if isinstance(message, m.AccuseReport)]


@pytest.fixture
def hits():
    return get_hits(OTHER, 1_000)


def test_a_prover_accuses_a_guessed_report_once_and_computes_nothing_for_it(state, tmp_path, hits, monkeypatch):
    prepare(state, tmp_path, hits, digest=bytes(32))
    role = make_prover(state, tmp_path, hits)
    monkeypatch.setattr(reviewer, "judge_report", None)
    [accusation] = get_accusations(act(role, state))
    assert accusation == m.AccuseReport(0, OTHER.address, LAZY.address)
    race_reviews.apply_report_accusation(state, PARAMS, OTHER.address, accusation)
    assert get_accusations(act(role, state)) == []


def test_an_accusation_that_did_not_get_through_is_sent_again(state, tmp_path, hits):
    prepare(state, tmp_path, hits, digest=bytes(32))
    role = make_prover(state, tmp_path, hits)
    assert len(get_accusations(act(role, state))) == 1
    assert len(get_accusations(act(role, state))) == 1


def test_a_prover_finds_nothing_in_an_honest_report(state, tmp_path, hits):
    prepare(state, tmp_path, hits)
    assert get_accusations(act(make_prover(state, tmp_path, hits), state)) == []


def test_invalid_outputs_of_the_own_search_accuse_nobody(state, tmp_path, hits):
    """Lost outputs, or a padder that has none for what it invented, are no reason to call anybody a liar."""
    prepare(state, tmp_path, hits, digest=bytes(32))
    assert get_accusations(act(make_prover(state, tmp_path, hits, known=1), state)) == []
    role = make_prover(state, tmp_path, hits)
    stored = role._load(0)
    racer.write_whole(role._path(0), encode(Harvest(10_000, stored.hits, (b"",) * len(stored.outputs))))
    assert get_accusations(act(role, state)) == []


def test_a_drawn_reviewer_recomputes_and_accuses_and_a_judge_confirms(state, tmp_path, hits):
    prepare(state, tmp_path, hits, digest=bytes(32))
    [accusation] = get_accusations(act(make_drawn(state, tmp_path), state))
    race_reviews.apply_report_accusation(state, PARAMS, ME.address, accusation)
    enter(state, race.VERDICTS, deadline=state.height + 100, round_index=7)
    judge = make_role(state, tmp_path, key=KEYS[4])
    [verdict] = [message for message in act(judge, state) if isinstance(message, m.JudgeReport)]
    assert verdict.verdict.outcome == m.REJECTED
    race_reviews.apply_report_verdict(state, KEYS[4].address, verdict)
    assert act(judge, state) == []
    assert act(make_role(state, tmp_path, key=LAZY), state) == []


def test_a_drawn_reviewer_leaves_an_honest_report_and_a_judge_acquits_it(state, tmp_path, hits):
    prepare(state, tmp_path, hits)
    assert get_accusations(act(make_drawn(state, tmp_path), state)) == []
    race_reviews.apply_report_accusation(state, PARAMS, ME.address, m.AccuseReport(0, OTHER.address, LAZY.address))
    enter(state, race.VERDICTS, deadline=state.height + 100, round_index=7)
    [verdict] = act(make_role(state, tmp_path, key=KEYS[4]), state)
    assert verdict.verdict.outcome == m.ACCEPTED


def test_reports_are_drawn_at_the_stated_rate_and_differently_by_every_node(state, tmp_path):
    """1/64 over five equal nodes: each takes one in 320."""
    current = race.get_race(state)
    drawn = {}
    for key in KEYS:
        role = make_role(state, tmp_path, key=key)
        pairs = ((bytes([first]) * 20, bytes([second]) * 20) for first in range(80) for second in range(80))
        drawn[key.address] = {pair for pair in pairs if role._reviewer._is_drawn(state, current, *pair)}
    taken = sum(len(found) for found in drawn.values())
    # 100 expected, standard deviation 10.
    assert 60 < taken < 140
    assert len(set.union(*drawn.values())) > taken * 9 // 10


def test_after_the_window_nobody_reviews(state, tmp_path, hits):
    prepare(state, tmp_path, hits, digest=bytes(32))
    deadline = state.height + PARAMS.race.verdict_blocks - PARAMS.race.review_blocks
    enter(state, race.VERDICTS, deadline=deadline, round_index=7)
    assert get_accusations(act(make_drawn(state, tmp_path), state)) == []
    enter(state, race.VERDICTS, deadline=deadline + 1, round_index=7)
    assert len(get_accusations(act(make_drawn(state, tmp_path), state))) == 1
    assert race_claims.get_race(state).phase == race.VERDICTS
