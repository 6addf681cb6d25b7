"""Where upgrades stand, for people: the plan, who voted for what, what is done, and whether this software can go on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from paceline.ledger import nodes, upgrades
from paceline.ledger.state import State

PPM = 1_000_000


class PlanLine(msgspec.Struct, frozen=True, kw_only=True):
    """An upgrade and the first height of its rules. `is_known` says whether this software has it."""

    name: str
    height: int
    is_known: bool


class VoteLine(msgspec.Struct, frozen=True, kw_only=True):
    """A node's last word. `weight_ppm` is its share of all race weight."""

    node: str
    cancels: bool
    name: str
    height: int
    weight_ppm: int


class UpgradeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Upgrades as one node sees them."""

    height: int
    plan: PlanLine | None
    votes: list[VoteLine]
    done: list[PlanLine]


def build_upgrade_status(state: State, has_handler: Callable[[str], bool]) -> UpgradeStatus:
    """Read it all from committed state."""
    plan = upgrades.PLAN.get(state)
    done = [(key.decode("ascii"), height) for key, height in upgrades.DONE.items(state)]
    return UpgradeStatus(
        height=state.height,
        plan=None if plan is None else PlanLine(name=plan.name, height=plan.height, is_known=has_handler(plan.name)),
        votes=_list_votes(state),
        done=[PlanLine(name=name, height=height, is_known=has_handler(name)) for name, height in done],
    )


def _list_votes(state: State) -> list[VoteLine]:
    weights = nodes.get_weights(state)
    total = sum(weights.values())
    lines = []
    for address, ballot in upgrades.BALLOTS.items(state):
        node = nodes.NODES.get(state, address)
        line = VoteLine(
            node=address.hex() if node is None else node.name,
            cancels=ballot.cancels,
            name=ballot.plan.name,
            height=ballot.plan.height,
            weight_ppm=PPM * weights.get(address, 0) // max(1, total),
        )
        lines.append(line)
    return sorted(lines, key=lambda line: line.node)
