"""How an epoch's fees lie over the nodes, beside what draws by weight do: what of them issues coins, and whose part of these is full.

A user who knows the draw may put its costly requests where its own node is drawn. So fees count for issuance as far as
they are spread by weight only: what a node was paid beyond its share of all fees issues nothing. And whoever serves so little
that chance does not explain it gets as much less of the new coins. It knows amounts and weights, no tasks and no heights.
Invariant: fees that are spread by weight count in full, and dividing a node's weight among names changes nothing.

Source: SPEC sections 2 and 3; decision 035.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

from paceline.base.integers import PPM, mul_div_floor

DEVIATIONS = 3
"""So many standard deviations of the draws a node may stay below its share."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """An epoch's fees of drawn work. Units: nicoin; race weight."""

    counted: int
    """What of them counts for issuance."""
    squares: int
    """Sum of the squares of all fees: its square root scales what chance does."""
    weight: int
    """Of all nodes."""


def measure_spread(fees: Sequence[tuple[bytes, int]], weights: Mapping[bytes, int]) -> Spread:
    """From what each piece of drawn work cost, by who was paid for it: a task, or a whole channel."""
    by_node: dict[bytes, int] = {}
    for node, fee in fees:
        by_node[node] = by_node.get(node, 0) + fee
    total, weight = sum(by_node.values()), sum(weights.values())
    # Rounded up: a share that is exact to the nicoin counts in full.
    counted = sum(min(paid, -(-total * weights.get(node, 0) // max(1, weight))) for node, paid in by_node.items())
    return Spread(counted=counted, squares=sum(fee * fee for _, fee in fees), weight=weight)


def compute_part_ppm(spread: Spread, weight: int, earned: int, fund_ppm: int) -> int:
    """Share of its new coins that a node of some weight gets, which earned so many nicoin by work of any kind.

    Expected is its share, by weight, of what hosts are paid; forgiven is what draws of pieces of these sizes explain.
    """
    paid = spread.counted - mul_div_floor(spread.counted, fund_ppm, PPM)
    expected = paid * weight // max(1, spread.weight)
    forgiven = DEVIATIONS * isqrt(spread.squares * weight // max(1, spread.weight))
    return PPM if earned + forgiven >= expected else mul_div_floor(earned + forgiven, PPM, expected)
