from __future__ import annotations

from itertools import permutations

import pytest
import torch
from safetensors.torch import load, save
from training_setup import BASE, CORPUS, PLAN, TRAINERS, replan, train

from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_blob
from paceline.training.claim import decode_global_state, decode_trainer_state, decode_update
from paceline.training.outer import compute_outer_step
from paceline.training.run import evaluate

WORKS = {trainer: train(trainer) for trainer in TRAINERS}
UPDATES = [(trainer, work.update) for trainer, work in WORKS.items()]


def spike(name, value):
    """An update that is zero but for one tensor."""
    tensors = {key: torch.zeros_like(tensor) for key, tensor in load(UPDATES[0][1]).items()}
    tensors[name].fill_(value)
    return save(tensors)


def test_rate_one_without_momentum_is_federated_averaging():
    plan = replan(outer_rate_ppm=1_000_000, outer_momentum_ppm=0)
    found = decode_global_state(plan, compute_outer_step(plan, BASE, UPDATES)).params
    locals_ = [decode_trainer_state(PLAN, work.states[-1]).params for work in WORKS.values()]
    for name, value in found.items():
        average = sum(local[name].double() for local in locals_) / 3
        torch.testing.assert_close(value.double(), average, rtol=0, atol=2e-7)


def test_nesterov_matches_the_formula_over_two_rounds():
    rate, decay = 0.7, 0.6
    mean = {
        name: sum(decode_update(PLAN, data)[name].double() for _, data in UPDATES) / 3 for name in load(UPDATES[0][1])
    }
    state = decode_global_state(PLAN, compute_outer_step(PLAN, compute_outer_step(PLAN, BASE, UPDATES), UPDATES))
    for name, value in decode_global_state(PLAN, BASE).params.items():
        first = mean[name]
        second = decay * first + mean[name]
        expected = value.double() - rate * (mean[name] + decay * first) - rate * (mean[name] + decay * second)
        torch.testing.assert_close(state.momentum[name].double(), second, rtol=0, atol=1e-7)
        torch.testing.assert_close(state.params[name].double(), expected, rtol=0, atol=1e-6)


def test_the_order_of_arrival_does_not_matter():
    hashes = {hash_blob(compute_outer_step(PLAN, BASE, list(order))) for order in permutations(UPDATES)}
    assert len(hashes) == 1


def test_products_and_sums_round_separately():
    name = "norm.weight"
    plan = replan(outer_rate_ppm=700_000, outer_momentum_ppm=0)
    found = decode_global_state(plan, compute_outer_step(plan, BASE, [(TRAINERS[0], spike(name, 0.3))])).params[name]
    product = torch.tensor(0.3) * torch.tensor(0.7)
    fused = (1.0 - torch.tensor(0.3).double() * torch.tensor(0.7).double()).float()
    assert fused != 1.0 - product, "the two ways must differ here or the test proves nothing"
    assert torch.equal(found, torch.full((128,), float(torch.tensor(1.0) - product)))


def test_the_result_is_pinned_on_every_machine():
    update = spike("norm.weight", 0.1)
    state = compute_outer_step(PLAN, BASE, [(TRAINERS[0], update), (TRAINERS[1], spike("norm.weight", 0.3))])
    assert hash_blob(state).hex()[:16] == "ea5ba1fa74427e2f"


def test_no_update_changes_nothing():
    assert compute_outer_step(PLAN, BASE, []) == BASE


def test_a_round_lowers_the_held_out_loss():
    assert evaluate(PLAN, compute_outer_step(PLAN, BASE, UPDATES), CORPUS) < evaluate(PLAN, BASE, CORPUS) - 200_000


def test_one_update_is_enough():
    assert compute_outer_step(PLAN, BASE, UPDATES[:1]) != BASE


def test_invalid_second_update_of_a_trainer():
    with pytest.raises(InvalidClaim, match="duplicate-update"):
        compute_outer_step(PLAN, BASE, [UPDATES[0], UPDATES[0]])


def test_invalid_update_bytes():
    with pytest.raises(InvalidClaim, match="malformed"):
        compute_outer_step(PLAN, BASE, [(TRAINERS[0], b"junk")])
    with pytest.raises(InvalidClaim, match="not-finite"):
        compute_outer_step(PLAN, BASE, [(TRAINERS[0], spike("norm.weight", float("nan")))])


def test_invalid_sum_that_overflows():
    big = spike("norm.weight", 3e38)
    with pytest.raises(InvalidClaim, match="not-finite"):
        compute_outer_step(PLAN, BASE, [(TRAINERS[0], big), (TRAINERS[1], big)])
