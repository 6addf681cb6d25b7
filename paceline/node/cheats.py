"""Frauds that a node can be told to play, so that everybody can watch them being caught. Off unless set in `node.toml`."""

from __future__ import annotations

import torch

from paceline.base.draws import generate_words
from paceline.base.hashing import hash_blob, hash_parts
from paceline.training.claim import (
    RoundClaim,
    TrainerState,
    compute_pseudo_gradient,
    decode_trainer_state,
    encode_state,
)
from paceline.training.plan import TrainingPlan
from paceline.training.run import RoundWork

RACE_PADDING = "race-padding"
CHEAP_MODEL = "cheap-model"
UNTRAINED_UPDATE = "untrained-update"

PADDING_PPM = 500_000
"""Invented hits per true hit."""
STEP_SIZE = 2e-4
"""About what one honest inner step moves a parameter."""


def pad_hits(hits: list[int], secret: bytes) -> list[int]:
    """True hits and as many invented ones as the padding says."""
    words = generate_words(hash_parts("invented-hits", secret))
    bound = max(hits, default=0) + 1_000_000
    invented = [next(words) % bound for _ in range(len(hits) * PADDING_PPM // 1_000_000 + 1)]
    return sorted({*hits, *invented})


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
