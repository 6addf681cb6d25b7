from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from training_setup import BASE, CORPUS, PLAN, START, TRAINERS, assign, replan, train

from paceline.base.errors import InvalidClaim, WorkError
from paceline.base.hashing import hash_blob
from paceline.training.claim import compute_start_state, decode_trainer_state
from paceline.training.data import get_batch
from paceline.training.run import evaluate, load_model, train_round

WORK = train()


def test_a_round_is_the_same_bytes_twice():
    again = train()
    assert again.claim == WORK.claim
    assert again.blobs == WORK.blobs


def test_the_claim_names_every_blob():
    assert WORK.claim.state_hashes == tuple(map(hash_blob, WORK.states))
    assert WORK.claim.update_hash == hash_blob(WORK.update)
    assert len(WORK.states) == PLAN.segment_count + 1
    assert WORK.states[0] == START
    assert all(hash_blob(data) == address for address, data in WORK.blobs.items())
    assert set(WORK.blobs) == {*WORK.claim.state_hashes[1:], WORK.claim.update_hash}


def test_a_round_equals_a_plain_loop():
    model = load_model(PLAN, decode_trainer_state(PLAN, START).params)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    losses = []
    for step, rate in enumerate([1.5e-3, 3e-3, 3e-3, 3e-3 * (0.1 + 0.9 * 5 / 6)]):
        optimizer.param_groups[0]["lr"] = rate
        loss = model(get_batch(PLAN, assign(), CORPUS, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    trained = decode_trainer_state(PLAN, WORK.states[-1]).params
    for name, param in model.named_parameters():
        torch.testing.assert_close(trained[name], param.detach(), rtol=0, atol=1e-6)
    assert WORK.claim.loss_micronats == pytest.approx(sum(losses[2:]) / 2 * 1e6, abs=5)


def test_the_second_round_continues_with_the_moments():
    start = compute_start_state(PLAN, BASE, WORK.states[-1])
    work = train_round(PLAN, assign(round_index=1), CORPUS, start, BASE)
    assert decode_trainer_state(PLAN, work.states[-1]).step == 8
    fresh = train_round(PLAN, assign(round_index=1), CORPUS, START, BASE)
    assert fresh.claim.update_hash != work.claim.update_hash


def test_trainers_of_one_round_do_different_work():
    assert train(TRAINERS[1]).claim.update_hash != WORK.claim.update_hash


def test_each_step_is_reported():
    steps = []
    train_round(PLAN, assign(), CORPUS, START, BASE, on_step=lambda step, loss: steps.append((step, loss)))
    assert [step for step, _ in steps] == [0, 1, 2, 3]
    assert steps[0][1] > steps[-1][1] > 0
    assert sum(loss for _, loss in steps[2:]) / 2 == pytest.approx(WORK.claim.loss_micronats, abs=1)


def test_a_stop_is_obeyed_before_the_next_step():
    taken = []
    with pytest.raises(WorkError, match="before step 2"):
        train_round(
            PLAN,
            assign(),
            CORPUS,
            START,
            BASE,
            on_step=lambda step, _: taken.append(step),
            should_stop=lambda: len(taken) == 2,
        )
    assert taken == [0, 1]


def test_a_model_that_blew_up_withdraws():
    tensors = load(START)
    tensors["params/norm.weight"].fill_(3e38)
    with pytest.raises(WorkError, match="not finite"):
        train_round(PLAN, assign(), CORPUS, save(tensors), BASE)


def test_invalid_corpus_is_refused():
    with pytest.raises(WorkError, match="not the plan's"):
        train_round(PLAN, assign(), CORPUS + b"x", START, BASE)


def test_invalid_start_is_refused():
    with pytest.raises(InvalidClaim, match="malformed"):
        train_round(PLAN, assign(), CORPUS, b"", BASE)


def test_one_step_is_the_smallest_round():
    plan = replan(rounds=1, inner_steps=1, segment_steps=1, warmup_steps=0)
    work = train_round(plan, assign(), CORPUS, START, BASE)
    assert len(work.states) == 2


def test_evaluation_is_a_loss_in_micronats():
    assert evaluate(PLAN, BASE, CORPUS) == evaluate(PLAN, BASE, CORPUS)
    assert 5_300_000 < evaluate(PLAN, BASE, CORPUS) < 5_900_000
