from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import load, save
from training_setup import BASE, PLAN, START, train

from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_blob
from paceline.training.claim import (
    MAX_OPTIMIZER_STEPS,
    build_initial_state,
    compute_pseudo_gradient,
    compute_start_state,
    decode_global_state,
    decode_trainer_state,
    decode_update,
    encode_state,
    verify_blob,
)

WORK = train()
PARAMS = 434_816
NAME = "params/norm.weight"


def refuse(code, decode, data):
    with pytest.raises(InvalidClaim) as caught:
        decode(PLAN, data)
    assert caught.value.code == code


def test_states_survive_their_encoding():
    assert encode_state(decode_global_state(PLAN, BASE)) == BASE
    assert encode_state(decode_trainer_state(PLAN, WORK.states[-1])) == WORK.states[-1]
    assert decode_trainer_state(PLAN, WORK.states[-1]).step == 4


def test_sizes_are_four_bytes_a_value():
    for data, copies in [(BASE, 2), (START, 3), (WORK.update, 1)]:
        assert 0 <= len(data) - 4 * copies * PARAMS < 8_192


def test_first_state_is_the_same_for_everybody():
    assert build_initial_state(PLAN) == BASE
    assert not any(value.any() for value in decode_global_state(PLAN, BASE).momentum.values())


def test_start_state_without_history_has_zero_moments():
    start = decode_trainer_state(PLAN, START)
    assert start.step == 0
    assert not any(value.any() for value in (start.first_moment | start.second_moment).values())


def test_start_state_keeps_the_moments_and_takes_the_global_params():
    last = decode_trainer_state(PLAN, WORK.states[-1])
    start = decode_trainer_state(PLAN, compute_start_state(PLAN, BASE, WORK.states[-1]))
    base = decode_global_state(PLAN, BASE)
    assert start.step == last.step
    assert all(torch.equal(start.first_moment[name], value) for name, value in last.first_moment.items())
    assert all(torch.equal(start.params[name], value) for name, value in base.params.items())


def test_update_is_base_minus_local_bit_for_bit():
    assert compute_pseudo_gradient(PLAN, BASE, WORK.states[-1]) == WORK.update
    base, local = decode_global_state(PLAN, BASE).params, decode_trainer_state(PLAN, WORK.states[-1]).params
    update = decode_update(PLAN, WORK.update)
    assert all(torch.equal(update[name], base[name] - local[name]) for name in base)


def test_invalid_overflow_of_the_difference():
    huge = {f"params/{name}": torch.full_like(v, -3e38) for name, v in decode_global_state(PLAN, BASE).params.items()}
    tall = {f"params/{name}": torch.full_like(v, 3e38) for name, v in decode_global_state(PLAN, BASE).params.items()}
    with pytest.raises(InvalidClaim, match="not-finite"):
        compute_pseudo_gradient(PLAN, save(load(BASE) | tall), save(load(START) | huge))


@pytest.mark.parametrize("decode", [decode_global_state, decode_trainer_state, decode_update])
def test_invalid_bytes_of_any_kind(decode):
    for data in (b"", b"\0" * 64, pickle.dumps({"params": 1}), START[:200], (2**62).to_bytes(8, "little") + b"{}"):
        refuse("malformed", decode, data)
    refuse("too-large", decode, bytes(4 * 3 * PARAMS + 70_000))


def test_invalid_kind_of_blob():
    refuse("layout", decode_global_state, WORK.update)
    refuse("layout", decode_trainer_state, BASE)
    refuse("too-large", decode_update, START)


@pytest.mark.parametrize(
    "value", [torch.ones(127), torch.ones(128, dtype=torch.float64), torch.ones(128, dtype=torch.bfloat16)]
)
def test_invalid_shape_or_type(value):
    refuse("layout", decode_trainer_state, save(load(START) | {NAME: value}))


def test_invalid_missing_or_additional_tensor():
    tensors = load(START)
    del tensors[NAME]
    refuse("layout", decode_trainer_state, save(tensors))
    refuse("layout", decode_trainer_state, save(load(START) | {"extra": torch.zeros(1)}))


def test_invalid_second_spelling():
    refuse("non-canonical", decode_trainer_state, save(load(START), metadata={"note": "hello"}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_invalid_numbers(value):
    tensors = load(START)
    tensors["second_moment/norm.weight"][5] = value
    refuse("not-finite", decode_trainer_state, save(tensors))


def test_invalid_step_and_its_bounds():
    for step in (0, MAX_OPTIMIZER_STEPS):
        assert decode_trainer_state(PLAN, save(load(START) | {"step": torch.tensor([step])})).step == step
    for step in (-1, MAX_OPTIMIZER_STEPS + 1):
        refuse("step", decode_trainer_state, save(load(START) | {"step": torch.tensor([step])}))


def test_blob_behind_a_hash():
    assert verify_blob(hash_blob(b"x"), b"x", "state") == b"x"


def test_invalid_blob_is_withheld_or_another():
    with pytest.raises(InvalidClaim, match="withheld"):
        verify_blob(hash_blob(b"x"), None, "state")
    with pytest.raises(InvalidClaim, match="blob-hash"):
        verify_blob(hash_blob(b"x"), b"y", "state")
