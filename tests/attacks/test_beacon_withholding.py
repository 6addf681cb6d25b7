"""A coalition with 30 % of weight withholds contributions and signatures to steer the Race's seed, and gains nothing.

Detection power, at 3,000 epochs and an event of 1 %: 30 events are due and more than 48 are taken as a gain, which happens
once in 1,500 runs by chance; a coalition that doubled its chance would be seen with 93 %, one with a free choice among its
eight subsets (7.7 %) always. The full run, of 100,000 epochs with its interval, is `bench/beacon_withholding.py`.
"""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from pathlib import Path

import pytest

from paceline.base.errors import InvalidTransaction

EPOCHS = 3_000
MOST_BY_CHANCE = 48
LEAST_BY_CHANCE = 13


def load_bench():
    path = Path(__file__).parents[2] / "bench" / "beacon_withholding.py"
    spec = importlib.util.spec_from_file_location("bench_beacon_withholding", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = load_bench()


@pytest.fixture(scope="module")
def simulation():
    return bench.Simulation(7)


@pytest.fixture(scope="module")
def outcome(simulation):
    """Events of the beacon and, with the same contributions, of plain commit-reveal."""
    signed = plain = 0
    for epoch in range(EPOCHS):
        signed += bench.is_event(simulation.run_epoch(epoch))
        plain += bench.is_event(simulation.compute_best_of_reveals(epoch))
    return signed, plain


def compute_tail(trials, least, chance):
    """Probability of at least `least` events."""
    below = (math.comb(trials, n) * chance**n * (1 - chance) ** (trials - n) for n in range(least))
    return 1 - sum(below)


def test_stated_power_follows_from_the_bounds():
    assert compute_tail(EPOCHS, MOST_BY_CHANCE + 1, 0.01) < 1 / 1_000
    assert compute_tail(EPOCHS, LEAST_BY_CHANCE, 0.01) > 1 - 1 / 1_000
    assert compute_tail(EPOCHS, MOST_BY_CHANCE + 1, 0.02) > 0.92
    assert compute_tail(EPOCHS, MOST_BY_CHANCE + 1, 1 - 0.99**8) > 1 - 1e-9


def test_withholder_gains_nothing_although_it_tries_everything(simulation, outcome):
    signed, _ = outcome
    assert LEAST_BY_CHANCE <= signed <= MOST_BY_CHANCE
    low, _, high = bench.compute_wilson(signed, EPOCHS)
    assert low < 0.01 < high
    # It did choose subsets, never with the signature at hand, and each contribution it came back with was refused.
    assert simulation.withheld > EPOCHS
    assert simulation.signature_known == 0
    assert simulation.late_refused > EPOCHS // 2


def test_defence_off_plain_commit_reveal_gives_the_best_of_eight(outcome):
    _, plain = outcome
    low, _, high = bench.compute_wilson(plain, EPOCHS)
    assert low < 1 - 0.99**8 < high
    assert plain > 3 * MOST_BY_CHANCE


def test_defence_off_signatures_before_reveals_close_give_the_best_of_eight():
    """The same ledger and the same coalition; only the honest members sign too early."""
    simulation = bench.Simulation(7, signed_early=True)
    events = sum(bench.is_event(simulation.run_epoch(epoch)) for epoch in range(1_000))
    low, _, high = bench.compute_wilson(events, 1_000)
    assert low < 1 - 0.99**8 < high
    assert low > 0.04
    assert simulation.signature_known == 1_000


@pytest.mark.parametrize("tries", [2, 10, 100])
def test_defence_off_a_block_hash_is_ground_by_its_proposer(tries):
    chance = random.Random(7)
    trials = 20_000 if tries < 100 else 3_000
    events = sum(bench.is_event(bench.grind_block_hash(chance, tries)) for _ in range(trials))
    low, _, high = bench.compute_wilson(events, trials)
    assert low < 0.7 * 0.01 + 0.3 * (1 - 0.99**tries) < high
    assert low > 0.01


def test_simulated_signature_needs_the_threshold_of_slots():
    key = bench.HashGroup(bytes(32))
    message = bytes(range(32))
    partials = {slot: key.sign(slot, message) for slot in range(6)}
    signature = key.scheme.combine(partials, 6)
    assert key.scheme.verify_group_signature(b"", message, signature)
    assert key.scheme.combine({slot: key.sign(slot, message) for slot in range(3, 9)}, 6) == signature
    with pytest.raises(InvalidTransaction):
        key.scheme.combine(partials, 7)


def test_invalid_simulated_partials_lead_to_no_signature():
    key, message = bench.HashGroup(bytes(32)), bytes(range(32))
    partials = {slot: key.sign(slot, message) for slot in range(5)} | {5: key.sign(5, bytes(32))}
    assert not key.scheme.verify_group_signature(b"", message, key.scheme.combine(partials, 6))
    assert not key.scheme.verify_partials((), message, partials)
    assert not key.scheme.verify_partial((), 5, message, partials[5])
