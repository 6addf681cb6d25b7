"""The trainer's side: inner AdamW steps in fp32 from a committed state, with the state kept at every segment border.

It refuses to know peers, blob stores and money. Invariant: a border state and the assignment determine every later
state of the round up to rounding, because a step reads nothing but (state, plan, assignment, corpus).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.base.errors import WorkError
from paceline.base.hashing import hash_blob
from paceline.base.integers import PPM
from paceline.models.byte_gpt import ByteGpt, build_model
from paceline.training.claim import (
    RoundClaim,
    Tensors,
    TrainerState,
    compute_pseudo_gradient,
    decode_global_state,
    decode_trainer_state,
    encode_state,
)
from paceline.training.data import compute_data_hash, get_batch, get_evaluation_batch
from paceline.training.plan import RoundAssignment, TrainingPlan, compute_inner_rate_ppb

MICRONATS = 1_000_000
_EPSILON = 1e-8

OnStep = Callable[[int, int], None]
"""Called after each inner step with its index in the round and its loss in micronats."""


@dataclass(frozen=True, kw_only=True)
class RoundWork:
    """A finished round: the claim and the blobs behind its hashes."""

    claim: RoundClaim
    update: bytes
    states: tuple[bytes, ...]

    @property
    def blobs(self) -> dict[bytes, bytes]:
        """What the trainer hands over, by hash: the update and every state but the first, which auditors build."""
        states = zip(self.claim.state_hashes[1:], self.states[1:], strict=True)
        return dict(states) | {self.claim.update_hash: self.update}


class InnerLoop:
    """A model and its AdamW, stepping through one trainer's batches of one round."""

    def __init__(self, plan: TrainingPlan, assignment: RoundAssignment, corpus: bytes, start: TrainerState) -> None:
        self._plan, self._assignment, self._corpus = plan, assignment, corpus
        self._model = load_model(plan, start.params)
        self._names = dict(sorted(self._model.named_parameters()))
        self._optimizer = torch.optim.AdamW(
            self._names.values(),
            betas=(plan.first_decay_ppm / PPM, plan.second_decay_ppm / PPM),
            eps=_EPSILON,
            weight_decay=plan.weight_decay_ppm / PPM,
            fused=True,
        )
        for name, param in self._names.items():
            self._optimizer.state[param] = {
                "step": torch.tensor(float(start.step)),
                "exp_avg": start.first_moment[name].clone(),
                "exp_avg_sq": start.second_moment[name].clone(),
            }
        self._taken = start.step

    def take_step(self, step: int) -> float:
        """One inner step; `step` counts within the round. Returns the loss before it in nats."""
        rate = compute_inner_rate_ppb(self._plan, self._assignment.round_index * self._plan.inner_steps + step)
        self._optimizer.param_groups[0]["lr"] = rate / 1e9
        loss: Tensor = self._model(get_batch(self._plan, self._assignment, self._corpus, step))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self._optimizer.step()
        self._taken += 1
        return loss.item()

    def get_state(self) -> TrainerState:
        """A view of the current state; it changes with the next step."""
        params: Tensors = {name: param.detach() for name, param in self._names.items()}
        moments = {name: self._optimizer.state[param] for name, param in self._names.items()}
        first = {name: moment["exp_avg"] for name, moment in moments.items()}
        second = {name: moment["exp_avg_sq"] for name, moment in moments.items()}
        return TrainerState(params, first, second, self._taken)


def train_round(
    plan: TrainingPlan,
    assignment: RoundAssignment,
    corpus: bytes,
    start_state: bytes,
    global_state: bytes,
    *,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RoundWork:
    """All inner steps of one round from `claim.compute_start_state`.

    Errors: WorkError when stopped, when the corpus is not the plan's, or when the loss is no longer finite (the
    trainer withdraws from the round). InvalidClaim when a given state is malformed.
    """
    require_corpus(plan, corpus)
    loop = InnerLoop(plan, assignment, corpus, decode_trainer_state(plan, start_state))
    states, losses = [start_state], [0.0] * plan.inner_steps
    for step in range(plan.inner_steps):
        if should_stop is not None and should_stop():
            raise WorkError(f"training stopped before step {step} of round {assignment.round_index}")
        losses[step] = loop.take_step(step)
        if not math.isfinite(losses[step]):
            raise WorkError(f"the loss is not finite at step {step} of round {assignment.round_index}")
        if on_step is not None:
            on_step(step, compute_loss_micronats([losses[step]]))
        if (step + 1) % plan.segment_steps == 0:
            states.append(encode_state(loop.get_state()))
    update = compute_pseudo_gradient(plan, global_state, states[-1])
    loss = compute_loss_micronats(losses[-plan.segment_steps :])
    claim = RoundClaim(hash_blob(update), tuple(hash_blob(state) for state in states), loss)
    return RoundWork(claim=claim, update=update, states=tuple(states))


def evaluate(plan: TrainingPlan, global_state: bytes, corpus: bytes) -> int:
    """Loss of a global state on fixed windows of the held-out tail.

    Units: micronats per byte; the last digits may differ between kinds of CPU.
    Errors: InvalidClaim when the state is malformed, WorkError when the tail is too short.
    """
    model = load_model(plan, decode_global_state(plan, global_state).params)
    with torch.no_grad():
        loss: Tensor = model(get_evaluation_batch(plan, corpus))
    return compute_loss_micronats([loss.item()])


def load_model(plan: TrainingPlan, params: Tensors) -> ByteGpt:
    """The plan's model with its own copy of the given parameters."""
    model = build_model(plan.model)
    model.load_state_dict(params)
    return model


def require_corpus(plan: TrainingPlan, corpus: bytes) -> None:
    """Errors: WorkError when the corpus at hand is not the one the plan names."""
    if compute_data_hash(corpus) != plan.data_hash:
        raise WorkError(f"this corpus is not the plan's: expected the blob {plan.data_hash.hex()}")


def compute_loss_micronats(losses: list[float]) -> int:
    """Mean of some losses in nats, rounded."""
    return round(sum(losses) / len(losses) * MICRONATS)
