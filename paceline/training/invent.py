"""A round of training that never happened: what a cheater sends, for demonstrations and attack tests.

It keeps the form (states at every border, plausible sizes of steps, an update that fits the last state) and computes no
gradient, so everything that does not replay a segment accepts it.
"""

from __future__ import annotations

import torch

from paceline.base.hashing import hash_blob
from paceline.training.claim import (
    RoundClaim,
    TrainerState,
    compute_pseudo_gradient,
    decode_trainer_state,
    encode_state,
)
from paceline.training.plan import TrainingPlan
from paceline.training.run import RoundWork

STEP_SIZE = 2e-4
"""About what one honest inner step moves a parameter."""


def invent_work(plan: TrainingPlan, start_state: bytes, global_state: bytes, loss_micronats: int) -> RoundWork:
    """A round that looks like training (states, norms, a falling loss) without one gradient computed."""
    state = decode_trainer_state(plan, start_state)
    generator = torch.Generator().manual_seed(int.from_bytes(hash_blob(start_state)[:7], "big"))
    states = [start_state]
    for _ in range(plan.segment_count):
        params = {
            name: tensor + torch.randn(tensor.shape, generator=generator) * STEP_SIZE * plan.segment_steps
            for name, tensor in state.params.items()
        }
        state = TrainerState(params, state.first_moment, state.second_moment, state.step + plan.segment_steps)
        states.append(encode_state(state))
    update = compute_pseudo_gradient(plan, global_state, states[-1])
    claim = RoundClaim(hash_blob(update), tuple(hash_blob(data) for data in states), loss_micronats)
    return RoundWork(claim=claim, update=update, states=tuple(states))
