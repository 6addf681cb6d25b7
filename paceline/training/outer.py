"""The outer step: accepted pseudo-gradients in, the next global state out (Nesterov momentum over rounds).

It refuses to know who was rejected and why. Invariant: the same state and the same set of updates give the same
bytes on every CPU, in whatever order the updates arrive.
Source: DiLoCo, arXiv 2311.08105; white paper appendix L.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paceline.base.errors import InvalidClaim
from paceline.base.integers import PPM
from paceline.training.claim import (
    GlobalState,
    Tensors,
    decode_global_state,
    decode_update,
    encode_state,
    require_finite,
)
from paceline.training.plan import TrainingPlan


def compute_outer_step(plan: TrainingPlan, global_state: bytes, updates: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The global state after a round, from (trainer address, accepted update) pairs in any order.

    No update at all leaves the state as it is: a round that accepted nothing changes nothing.
    Errors: InvalidClaim when an address comes twice, bytes are malformed, or the result is not finite.
    """
    if not updates:
        return global_state
    ordered = sorted(updates)
    addresses = [address for address, _ in ordered]
    if len(set(addresses)) != len(addresses):
        raise InvalidClaim("duplicate-update", "one trainer has two updates in one round")
    state = decode_global_state(plan, global_state)
    mean = compute_mean([decode_update(plan, data) for _, data in ordered])
    stepped = apply_nesterov(plan, state, mean)
    require_finite(stepped.params | stepped.momentum, "outer step")
    return encode_state(stepped)


def compute_mean(updates: Sequence[Tensors]) -> Tensors:
    """Mean of updates, added left to right in fp32: addition of floats depends on its order, so the order is fixed."""
    total = dict(updates[0])
    for update in updates[1:]:
        total = {name: value + update[name] for name, value in total.items()}
    return {name: value / len(updates) for name, value in total.items()}


def apply_nesterov(plan: TrainingPlan, state: GlobalState, mean: Tensors) -> GlobalState:
    """One outer step: m' = mu * m + mean; params' = params - eta * (mean + mu * m').

    Products and sums stay separate kernels: a fused multiply-add rounds once instead of twice, and only some CPUs
    have it.
    """
    rate, decay = _to_fp32(plan.outer_rate_ppm), _to_fp32(plan.outer_momentum_ppm)
    momentum = {name: value * decay + mean[name] for name, value in state.momentum.items()}
    params = {name: value - (momentum[name] * decay + mean[name]) * rate for name, value in state.params.items()}
    return GlobalState(params, momentum)


def _to_fp32(share_ppm: int) -> Tensor:
    return torch.tensor(share_ppm / PPM, dtype=torch.float32)
