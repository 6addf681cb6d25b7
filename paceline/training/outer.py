"""The outer step: accepted pseudo-gradients in, the next global state out (Nesterov momentum over rounds).

It refuses to know who was rejected and why. Invariant: the same state and the same set of updates give the same
bytes on every CPU, in whatever order the updates arrive.
The arithmetic is that of `methods`, so a simulated run and the network's take the same outer step.
Source: DiLoCo, arXiv 2311.08105; white paper appendix L.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from paceline.training.methods.local import LocalOptimizer, Schedule
from paceline.training.methods.outer_optimizers import Nesterov
from paceline.training.methods.strategy import Rule, Strategy, Subject, Trigger
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
    (rule,) = build_strategy(plan).rules
    stepped = _apply(rule, state, [decode_update(plan, data) for _, data in ordered])
    require_finite(stepped.params | stepped.momentum, "outer step")
    return encode_state(stepped)


def build_strategy(plan: TrainingPlan) -> Strategy:
    """The run's method as the engine of all methods knows it: DiLoCo with the plan's settings.

    Its inner optimiser says what `run.InnerLoop` does; the loop itself takes integer rates, which auditors replay.
    """
    decays = [plan.first_decay_ppm / PPM, plan.second_decay_ppm / PPM]
    local = LocalOptimizer(
        name="adamw",
        rate=plan.inner_rate_ppm / PPM,
        settings={"betas": decays, "weight_decay": plan.weight_decay_ppm / PPM, "fused": True},
        schedule=Schedule(kind="linear", warmup_steps=plan.warmup_steps, final_share=plan.final_rate_ppm / PPM),
    )
    outer = Nesterov(rate=plan.outer_rate_ppm / PPM, momentum=plan.outer_momentum_ppm / PPM)
    rule = Rule(subject=Subject.DELTA, trigger=Trigger(interval=plan.inner_steps), outer=outer)
    return Strategy(name="diloco", local=local, rules=(rule,))


def _apply(rule: Rule, state: GlobalState, updates: Sequence[Tensors]) -> GlobalState:
    """Combine and step tensor by tensor: the updates come in the order of addresses, on which float sums depend."""
    outer = rule.outer
    assert outer is not None
    params, momentum = {}, {}
    for name, anchor in state.params.items():
        mean = rule.combine.apply([update[name] for update in updates], [1.0] * len(updates))
        params[name], (momentum[name],) = outer.apply(anchor, (state.momentum[name],), mean)
    return GlobalState(params, momentum)
