"""What a trainer hands over: states and updates as safetensors bytes, and the claim that commits to their hashes.

It refuses to know how blobs travel and who judges. Invariant: one state has one encoding (names, shapes and types
fixed by the plan, all values finite, bytes equal to their re-encoding), so equal hashes mean equal tensors and the
reverse. Nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_blob
from paceline.models.byte_gpt import build_initial_params, build_model
from paceline.training.plan import TrainingPlan

MAX_HEADER_BYTES = 64 * 1024
MAX_OPTIMIZER_STEPS = 2**24
"""AdamW counts its steps in fp32, which holds every integer up to here."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class GlobalState:
    """What all trainers share between rounds: parameters and the momentum of the outer step."""

    params: Tensors
    momentum: Tensors


@dataclass(frozen=True)
class TrainerState:
    """Everything an inner step depends on: parameters, AdamW's two moments, and how many steps those have seen."""

    params: Tensors
    first_moment: Tensors
    second_moment: Tensors
    step: int


@dataclass(frozen=True)
class RoundClaim:
    """What a trainer commits to before anyone knows which segments will be replayed."""

    update_hash: bytes
    state_hashes: tuple[bytes, ...]
    loss_micronats: int


def build_initial_state(plan: TrainingPlan) -> bytes:
    """The global state before the first round: parameters from the seed of the plan, no momentum."""
    params = build_initial_params(plan.model, plan.seed)
    return encode_state(GlobalState(params, {name: torch.zeros_like(value) for name, value in params.items()}))


def compute_start_state(plan: TrainingPlan, global_state: bytes, previous: bytes | None) -> bytes:
    """Where a trainer must begin a round: the global parameters with the moments of its last accepted final state.

    `previous` is that state, or None for a trainer that has none: its moments are zero.
    Errors: InvalidClaim when either state is malformed.
    """
    params = decode_global_state(plan, global_state).params
    if previous is None:
        first, second = ({name: torch.zeros_like(value) for name, value in params.items()} for _ in range(2))
        return encode_state(TrainerState(params, first, second, 0))
    last = decode_trainer_state(plan, previous)
    return encode_state(TrainerState(params, last.first_moment, last.second_moment, last.step))


def compute_pseudo_gradient(plan: TrainingPlan, global_state: bytes, final_state: bytes) -> bytes:
    """The update of a round: base minus local, in fp32, so the same two states give the same bytes everywhere.

    Errors: InvalidClaim when a state is malformed or the difference overflows.
    """
    base = decode_global_state(plan, global_state).params
    local = decode_trainer_state(plan, final_state).params
    update = {name: value - local[name] for name, value in base.items()}
    require_finite(update, "update")
    return save(update)


def encode_state(state: GlobalState | TrainerState) -> bytes:
    """Canonical bytes of a state; their `hash_blob` is the state hash."""
    if isinstance(state, GlobalState):
        return save(_join(params=state.params, momentum=state.momentum))
    groups = _join(params=state.params, first_moment=state.first_moment, second_moment=state.second_moment)
    return save(groups | {"step": torch.tensor([state.step])})


def decode_global_state(plan: TrainingPlan, data: bytes) -> GlobalState:
    """A global state from untrusted bytes.

    Errors: InvalidClaim with code too-large, malformed, layout, non-canonical or not-finite.
    """
    groups = _decode(plan, data, ("params", "momentum"), has_step=False)
    return GlobalState(_pick(groups, "params"), _pick(groups, "momentum"))


def decode_trainer_state(plan: TrainingPlan, data: bytes) -> TrainerState:
    """A trainer's state from untrusted bytes.

    Errors: InvalidClaim with code too-large, malformed, layout, non-canonical, not-finite or step.
    """
    groups = _decode(plan, data, ("params", "first_moment", "second_moment"), has_step=True)
    step = int(groups["step"])
    if not 0 <= step <= MAX_OPTIMIZER_STEPS:
        raise InvalidClaim("step", f"{step} optimiser steps, expected 0 to {MAX_OPTIMIZER_STEPS}")
    params, first, second = (_pick(groups, group) for group in ("params", "first_moment", "second_moment"))
    return TrainerState(params, first, second, step)


def decode_update(plan: TrainingPlan, data: bytes) -> Tensors:
    """A pseudo-gradient from untrusted bytes.

    Errors: InvalidClaim with code too-large, malformed, layout, non-canonical or not-finite.
    """
    return _decode(plan, data, ("",), has_step=False)


def verify_blob(claimed: bytes, data: bytes | None, name: str) -> bytes:
    """The blob behind a committed hash.

    Errors: InvalidClaim with code withheld (no blob) or blob-hash (another blob).
    """
    if data is None:
        raise InvalidClaim("withheld", f"the {name} {claimed.hex()[:16]} was not handed over")
    if hash_blob(data) != claimed:
        raise InvalidClaim("blob-hash", f"the {name} hashes to {hash_blob(data).hex()[:16]}, not {claimed.hex()[:16]}")
    return data


def require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Errors: InvalidClaim with code not-finite when any value is NaN or infinite."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidClaim("not-finite", f"{what}: {name} holds NaN or infinity")


@lru_cache(maxsize=16)
def get_param_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter of a preset, in name order."""
    return {name: tuple(tensor.shape) for name, tensor in sorted(build_model(model).named_parameters())}


def _decode(plan: TrainingPlan, data: bytes, groups: tuple[str, ...], *, has_step: bool) -> Tensors:
    shapes = get_param_shapes(plan.model)
    layout = {_name(group, name): shape for group in groups for name, shape in shapes.items()}
    limit = MAX_HEADER_BYTES + 4 * sum(torch.Size(shape).numel() for shape in layout.values())
    if len(data) > limit:
        raise InvalidClaim("too-large", f"{len(data)} bytes, at most {limit} are allowed")
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as problem:
        raise InvalidClaim("malformed", f"no safetensors: {problem}") from None
    expected = {name: (torch.float32, shape) for name, shape in layout.items()}
    expected |= {"step": (torch.int64, (1,))} if has_step else {}
    if {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} != expected:
        raise InvalidClaim("layout", f"names, shapes or types are not those of model {plan.model}")
    if save(tensors) != data:
        raise InvalidClaim("non-canonical", "the bytes are not the one encoding of these tensors")
    require_finite({name: tensor for name, tensor in tensors.items() if name != "step"}, "blob")
    return dict(sorted(tensors.items()))


def _join(**groups: Tensors) -> Tensors:
    return {_name(group, name): tensor for group, members in groups.items() for name, tensor in members.items()}


def _pick(tensors: Tensors, group: str) -> Tensors:
    return {name.removeprefix(group + "/"): value for name, value in tensors.items() if name.startswith(group + "/")}


def _name(group: str, name: str) -> str:
    return f"{group}/{name}" if group else name
