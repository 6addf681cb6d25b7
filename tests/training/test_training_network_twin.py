"""The network's rounds and the simulator's are one method: the same updates, the same outer steps, the same parameters."""

from __future__ import annotations

import torch
from training_setup import BASE, CORPUS, PLAN, TRAINERS, assign

from paceline.lab.training.fleet import make_fleet
from paceline.lab.training.run import Plan, Run
from paceline.training.claim import compute_start_state, decode_global_state
from paceline.training.data import get_batch
from paceline.training.methods.flat_model import FlatModel
from paceline.training.methods.replica import Course
from paceline.training.methods.workbench import Workbench
from paceline.training.outer import build_strategy, compute_outer_step
from paceline.training.run import load_model, train_round

ROUNDS = 2


def play_network():
    """Rounds as nodes take them: bytes in, bytes out."""
    state, previous = BASE, dict.fromkeys(TRAINERS)
    for number in range(ROUNDS):
        works = {
            trainer: train_round(PLAN, assign(trainer, number), CORPUS, compute_start_state(PLAN, state, last), state)
            for trainer, last in previous.items()
        }
        state = compute_outer_step(PLAN, state, [(trainer, work.update) for trainer, work in works.items()])
        previous = {trainer: work.states[-1] for trainer, work in works.items()}
    return decode_global_state(PLAN, state).params


def play_simulator():
    model = FlatModel(load_model(PLAN, decode_global_state(PLAN, BASE).params))

    def get(trainer, step):
        number, inner = divmod(step, PLAN.inner_steps)
        return get_batch(PLAN, assign(TRAINERS[trainer], number), CORPUS, inner)

    course = Course(
        strategy=build_strategy(PLAN),
        bench=Workbench(model),
        total_steps=ROUNDS * PLAN.inner_steps,
        seed=b"twin",
        get_batch=get,
        batch_tokens=PLAN.batch_size,
    )
    run = Run(course, Plan(fleet=make_fleet(len(TRAINERS)), evaluate_every=1_000), model.values.clone())
    assert run.play()
    return dict(zip(model.names, model.layout.split(run.get_result().params), strict=True))


def test_the_network_and_the_simulator_take_the_same_steps():
    network, simulated = play_network(), play_simulator()
    start = decode_global_state(PLAN, BASE).params
    for name, value in network.items():
        moved = torch.linalg.vector_norm(value - start[name])
        # The ledger's rates are whole parts per billion; nothing else differs.
        assert torch.linalg.vector_norm(value - simulated[name]) <= 1e-4 * moved, name
        assert moved > 0
