"""How much of a node's work is checked: by its reputation, by what it has to lose, and by the evidence against it."""

from __future__ import annotations

from paceline.base.integers import PPM, mul_div_floor
from paceline.ledger import nodes, suspicion
from paceline.ledger.state import State
from paceline.ledger.tasks import Task
from paceline.protocol.params import NetworkParams


def check_rate_ppm(state: State, params: NetworkParams, address: bytes, task: Task) -> int:
    """Expected number of checkers of a task, at most one."""
    return compute_rate_ppm(state, params, address, task.cost)


def compute_rate_ppm(state: State, params: NetworkParams, address: bytes, cost: int) -> int:
    """The same for an answer of this cost: the highest of the three rates."""
    node = nodes.NODES.get(state, address)
    assert node is not None
    return max(
        compute_reputation_rate_ppm(node.reputation, params),
        compute_value_rate_ppm(cost, node.held + node.vesting),
        PPM if suspicion.is_under_inquiry(state, address) else _compute_suspicion_rate(state, params, address),
    )


def compute_reputation_rate_ppm(reputation: int, params: NetworkParams) -> int:
    """All of a node's tasks at reputation 0, halving toward the floor."""
    above = PPM - params.check_floor_ppm
    return params.check_floor_ppm + (above >> min(64, reputation // params.check_halving_epochs))


def compute_value_rate_ppm(cost: int, held: int) -> int:
    """Least rate at which cheating on this task does not pay: half of its cost may be saved, all that is held is lost.

    Units: nicoin; `held` is pending and vesting pay together, and contains the task itself.
    Source: SPEC section 3: rate >= saving / (detection * (pending + vesting + reward)), with detection near one.
    """
    return min(PPM, mul_div_floor(cost, PPM, 2 * max(1, cost, held)))


def _compute_suspicion_rate(state: State, params: NetworkParams, address: bytes) -> int:
    return min(PPM, mul_div_floor(max(0, suspicion.get_sum(state, address)), PPM, params.tasks.suspicion_micronats))
