"""Attacks on the duty to check: copy, sleep, flood with lies, bribe, and cheat where little is at stake. Power is stated."""

from __future__ import annotations

from math import comb

import pytest

from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.economy.pay import compute_criterion_ppm
from paceline.ledger.check_rates import compute_value_rate_ppm
from paceline.ledger.checks import draw_checkers
from paceline.ledger.disputes import Vote
from paceline.ledger.suspicion import compute_evidence
from paceline.ledger.tasks import Task
from paceline.protocol import messages as m
from paceline.protocol.params import TINY

NODES = [bytes([index]) * 20 for index in range(12)]
WEIGHTS = dict.fromkeys(NODES[2:], 100)
"""Everybody but executor and relay."""
TASKS = 3_000
HIGH, LOW, BOUND = (
    TINY.tasks.evidence_high_micronats,
    TINY.tasks.evidence_low_micronats,
    TINY.tasks.suspicion_micronats,
)


def draw(index, rate_ppm, weights=WEIGHTS):
    seed = hash_parts("test-beacon", index.to_bytes(4, "big"))
    return draw_checkers(seed, hash_parts("test-task", index.to_bytes(4, "big")), weights, rate_ppm)


@pytest.mark.parametrize("rate", [1_000_000, 100_000, 10_000])
def test_the_expected_number_of_checkers_is_the_rate(rate):
    found = sum(len(draw(index, rate)) for index in range(TASKS))
    mean = TASKS * rate / PPM
    # The variance of independent draws is below their mean; four deviations.
    assert abs(found - mean) < 4 * mean**0.5


def test_duties_follow_weight_and_splitting_a_key_gains_nothing():
    whole = {NODES[2]: 500, NODES[3]: 500}
    split = {NODES[2]: 500, **{NODES[4 + part]: 100 for part in range(5)}}
    one = sum(NODES[3] in draw(index, PPM, whole) for index in range(TASKS))
    five = sum(len([a for a in draw(index, PPM, split) if a != NODES[2]]) for index in range(TASKS))
    assert abs(one - TASKS / 2) < 4 * (TASKS / 4) ** 0.5
    assert abs(five - TASKS / 2) < 4 * (TASKS / 2) ** 0.5


def test_a_copied_verdict_fits_no_commitment_of_the_copier():
    honest = m.JudgeTask(bytes(32), m.Verdict(m.ACCEPTED, "all well", (12, 34)), b"s" * 32)
    commitment = honest.compute_commitment(NODES[2])
    # Copying the hash of another before anything is shown binds the copier to what it cannot reveal.
    assert honest.compute_commitment(NODES[3]) != commitment
    # The defence off: with open verdicts the copy is as good as the original.
    assert m.JudgeTask(honest.task, honest.verdict, honest.salt) == honest


def test_a_checker_that_sleeps_loses_in_proportion_to_what_it_misses():
    released = {missed: compute_criterion_ppm(100 - missed, 100) for missed in (0, 1, 2, 10, 50, 100)}
    assert (released[0], released[1]) == (PPM, PPM)
    assert released[2] < PPM
    assert released[50] == 510_000
    assert released[100] == 10_000


def test_cheating_pays_nowhere_in_an_epoch():
    held = 0
    gains = []
    for _ in range(2_000):
        held += 100
        rate = compute_value_rate_ppm(100, held)
        # Half of the task's cost is saved; with the drawn chance all held pay is lost.
        gains.append(50 - held * rate / PPM)
    assert max(gains) < 1
    # The defence off: at the floor rate of 1 % a node with little at stake gains by every cheated task.
    assert 50 - 100 * TINY.check_floor_ppm / PPM > 40


def make_task(numbers):
    voters = tuple(NODES[2 : 2 + len(numbers)])
    votes = tuple(Vote(voter, m.ACCEPTED, "", (number,)) for voter, number in zip(voters, numbers, strict=True))
    blank = {field: bytes(32) for field in ("session", "seed", "owner", "relay", "payload_hash", "prompt_hash")}
    counts = dict.fromkeys(("index", "cost", "prompt_tokens", "completion_tokens", "epoch", "height", "round_index"), 0)
    return Task(executor=NODES[0], status="revealing", drawn=voters, votes=votes, **blank, **counts)


def test_one_lying_checker_among_several_moves_a_sum_no_further_than_the_honest_ones_say():
    assert compute_evidence(make_task([-20_000, 10**9]), TINY) == -20_000
    assert compute_evidence(make_task([-20_000, -19_000, 10**9]), TINY) == -19_000
    # Alone it adds what the most extreme honest answer would: three such tasks open a case and punish nobody.
    assert compute_evidence(make_task([10**9]), TINY) == HIGH
    assert 2 * HIGH < BOUND <= 3 * HIGH
    # A friend who is the only checker takes back no more than a lost stake.
    assert compute_evidence(make_task([-(10**9)]), TINY) == LOW
    # The defence off: one number would decide alone.
    assert BOUND < 10**9


def confirm_chance(dishonest, slots, needed):
    """Chance that at least `needed` of the drawn are dishonest, at a share of all weight."""
    return sum(comb(slots, k) * dishonest**k * (1 - dishonest) ** (slots - k) for k in range(needed, slots + 1))


def test_a_third_of_dishonest_weight_rarely_hides_a_suspect_and_convicts_nobody():
    tasks = TINY.tasks
    hidden = confirm_chance(1 / 3, tasks.inquiry_slots, tasks.inquiry_slots - tasks.inquiry_confirmations + 1)
    assert 0.04 < hidden < 0.05
    # Forcing a vote on an honest node costs the network work; guilt needs more than half of all weight.
    assert confirm_chance(1 / 3, tasks.inquiry_slots, tasks.inquiry_confirmations) > 0.5
