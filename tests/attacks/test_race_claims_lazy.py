"""Checkers of a Race that report without looking, look at a part only, copy, or are told by the prover what to say.

Power. A report names a digest over the exact outputs at all its positions. The prover has these outputs from its search and
compares every report on its claim: a checker that left out one position is found by the first honest prover it reports on,
with certainty. With 16 duties a Race it meets none with (share of colluding provers)**16: a third 2.3e-8, a half 1.5e-5.
Told the outputs by a colluding prover it passes that; then other nodes draw the report in secret, 1/64 in all: from a share a
of lazy or silent weight, 1 - (1 - (1 - a) / 64)**n of n such reports: 64 % after 100 with a = 1/3. Where the prover pads, that
report is false whatever its digest, and honest slots of the same claim find the padding besides.
An honest report never differs, so no honest checker is guilty short of a fault of its machine.
"""

from __future__ import annotations

import pytest
from race_claims_chain import RealRace

from paceline.base.draws import WeightLine, draw_happens
from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.ledger import bonds, nodes, race, race_claims, race_reviews
from paceline.protocol import messages as m
from paceline.protocol.params import TINY
from paceline.race.check import compute_report_digest, examine_nonces
from paceline.verification import races
from paceline.verification.races import examine_duty, judge_report

LAZY = 4
HONEST = range(4)


def look_at_all_but_one(played, duty):
    """All the work but the last position."""
    outputs = [output for _, output in examine_nonces(played.challenge, duty.prover_key, list(duty.opened.values()))]
    return compute_report_digest(played.challenge, duty.prover, duty.checker, [*outputs[:-1], bytes(32)])


def copy_another(played, duty):
    """What an honest checker with the very same positions would name, taken from its report."""
    other = next(key.address for key in played.chain.keys if key.address not in {duty.checker, duty.prover})
    outputs = [output for _, output in examine_nonces(played.challenge, duty.prover_key, list(duty.opened.values()))]
    return races.compute_report_digest(played.challenge, duty.prover, other, outputs)


def be_told(played, duty):
    """The prover hands out the outputs of all its numbers, invented ones too."""
    return examine_duty(played.challenge, duty).digest


def guilty(played):
    return [index for index in range(5) if played.chain.node(index).guilty == 0]


@pytest.mark.parametrize("guess", [None, look_at_all_but_one, copy_another])
def test_a_lazy_checker_is_found_by_the_first_honest_prover_and_nobody_else_is(guess):
    played = RealRace(lazy=(LAZY,), **({} if guess is None else {"guess": guess}))
    weights = played.play(reviewers=[0])
    assert guilty(played) == [LAZY]
    assert played.chain.node(LAZY).fulfilled < played.chain.node(LAZY).duties
    # The claims stand on the reports that are left, and what the lazy one found by searching stays its own.
    assert weights == [len(played.hits[index]) for index in range(5)]


def test_every_honest_prover_finds_every_false_report_and_no_honest_one():
    played = RealRace(lazy=(LAZY,))
    played.reach_reports()
    reports = race_reviews.get_reports(played.chain.state)
    drawn = draw_duties(played)
    assert [(prover, checker) for prover, checker, _ in reports] == sorted(drawn)
    differing = [
        (prover, checker)
        for prover, checker, digest in reports
        if examine_duty(played.challenge, played.find_duty(prover, checker)).digest != digest
    ]
    lazy = played.chain.keys[LAZY].address
    assert differing == sorted(duty for duty in drawn if duty[1] == lazy)
    # Sixteen slots over four others leave nobody out of a claim but with 1 %.
    assert len(differing) >= 2
    assert len(drawn) > 3 * len(differing)


def draw_duties(played):
    """Who has to check whose claim: the ledger's draw, made again from the beacon's word on each claim."""
    state, params = played.chain.state, played.chain.params
    current, line = race.get_race(state), WeightLine(nodes.get_weights(state))
    return {
        (key.address, checker)
        for key in played.chain.keys
        for checker in line.draw_slots(
            race_claims.derive_sample_seed(state, current, key.address), params.race.checker_slots, key.address
        )
    }


def test_defence_off_unreviewed_lazy_checkers_keep_their_standing_and_their_duties_count():
    played = RealRace(lazy=(LAZY,))
    played.play(reviewers=())
    node = played.chain.node(LAZY)
    assert guilty(played) == []
    assert node.fulfilled == node.duties > 0


def test_a_report_that_the_padder_dictated_is_false_whatever_its_digest():
    """No review by the prover, which colludes; whoever draws the report sees that a number is no hit."""
    played = RealRace(padder=0, lazy=(LAZY,), guess=be_told)
    played.reach_reports()
    prover, lazy = (played.chain.keys[index].address for index in (0, LAZY))
    digest = race_reviews.REPORTS.get(played.chain.state, prover + lazy)
    duty = played.find_duty(prover, lazy)
    assert examine_duty(played.challenge, duty).digest == digest
    assert judge_report(played.challenge, duty, digest).outcome == m.REJECTED
    # One reviewer that recomputes is enough to put it to the vote, and the padder falls by honest slots as ever.
    played.chain.send(played.chain.keys[1], m.AccuseReport(0, prover, lazy))
    played.review(())
    played.end()
    assert guilty(played) == [0, LAZY]


def test_a_third_cannot_make_an_honest_report_false():
    """The prover accuses an honest checker: everybody recomputes, the report holds, the accuser pays."""
    played = RealRace()
    played.reach_reports()
    prover = played.chain.keys[0].address
    checker = next(found for owner, found, _ in race_reviews.get_reports(played.chain.state) if owner == prover)
    played.chain.send(played.chain.keys[0], m.AccuseReport(0, prover, checker))
    played.review(())
    assert race_reviews.get_report_accusations(played.chain.state) == []
    assert bonds.DEBTS.get(played.chain.state, prover) == played.chain.params.race.bond
    played.end()
    assert guilty(played) == []


def compute_found(reports, idle_share):
    """Chance that one of `reports` dictated reports is drawn by somebody who looks."""
    return 1 - (1 - (1 - idle_share) * TINY.race.review_ppm / PPM) ** reports


def test_secret_draws_find_dictated_reports_as_stated():
    assert compute_found(100, 1 / 3) == pytest.approx(0.649, abs=0.01)
    nodes, idle, trials, found = 9, 3, 3_000, 0
    for trial in range(trials):
        drawn = [
            draw_happens(
                hash_parts("coin", bytes([node]), trial.to_bytes(4, "big"), report.to_bytes(2, "big")),
                TINY.race.review_ppm,
                PPM * nodes,
            )
            for node in range(idle, nodes)
            for report in range(16)
        ]
        found += any(drawn)
    stated = compute_found(16, idle / nodes)
    # 15.4 % of 3,000: 461 expected, standard deviation 20.
    assert abs(found / trials - stated) < 4 * (stated / trials) ** 0.5


def meets_colluders_only(trial, duties):
    """Whether a node's first duties in a Race of 90 equal nodes are all for claims of the third that colludes."""
    members = [bytes([number]) * 20 for number in range(90)]
    line, met = WeightLine(dict.fromkeys(members, 1)), []
    for number, prover in enumerate(members[1:]):
        seed = hash_parts("claim", trial.to_bytes(4, "big"), prover)
        drawn = line.draw_slots(seed, TINY.race.checker_slots, prover)
        met += [number % 3 == 0] * drawn.count(members[0])
        if len(met) >= duties:
            break
    return all(met)


def test_a_checker_meets_only_colluding_provers_hardly_ever():
    duties = TINY.race.checker_slots
    assert (1 / 3) ** duties < 2.4e-8
    assert 0.5**duties < 1.6e-5
    # Two duties are few enough to see it happen: in a ninth of 400 draws, 44 expected, standard deviation 6.3.
    assert abs(sum(meets_colluders_only(trial, 2) for trial in range(400)) - 44) < 26


def test_defence_off_a_digest_without_the_checkers_address_can_be_copied(monkeypatch):
    """The copier of the first test, reviewed in the same way, where outputs are named without who computed them."""

    def compute_unbound(challenge, prover, _checker, outputs):
        return compute_report_digest(challenge, prover, bytes(20), outputs)

    monkeypatch.setattr(races, "compute_report_digest", compute_unbound)
    played = RealRace(lazy=(LAZY,), guess=copy_another)
    played.play(reviewers=range(5))
    assert guilty(played) == []
    node = played.chain.node(LAZY)
    assert node.fulfilled == node.duties > 0
