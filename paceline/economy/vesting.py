"""Coins that are somebody's but come free later: in equal parts, one a period, until then forfeitable as a whole.

Released rewards vest over the next cycles, so that who cheats early still has something to lose; founders' coins vest
over years, and nothing of them before a cliff. It knows periods and amounts, not what a period is. Invariant: parts add up to
the amount, to the unit.

Source: SPEC sections 1 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.base.integers import mul_div_floor

Part = tuple[int, int]
"""(period in which it comes free, nicoin)."""


def add_vesting(held: Sequence[Part], amount: int, now: int, periods: int) -> tuple[Part, ...]:
    """Add an amount that comes free in equal parts in the `periods` periods after now; what does not divide comes last.

    Parts of one period are kept as one, so that who earns for ever holds no more parts than periods.
    """
    assert amount >= 0 and periods > 0
    each = amount // periods
    due = dict(held)
    for step in range(1, periods + 1):
        part = each if step < periods else amount - each * (periods - 1)
        if part:
            due[now + step] = due.get(now + step, 0) + part
    return tuple(sorted(due.items()))


def take_vested(held: Sequence[Part], now: int) -> tuple[int, tuple[Part, ...]]:
    """Nicoin that are free by now, and the parts that are not."""
    free = sum(amount for period, amount in held if period <= now)
    return free, tuple(part for part in held if part[0] > now)


def compute_vesting(held: Sequence[Part]) -> int:
    """Nicoin not yet free: what a forfeit takes."""
    return sum(amount for _, amount in held)


def compute_vested(total: int, passed: int, cliff: int, periods: int) -> int:
    """Nicoin of a total that are free after so many periods: nothing before the cliff, else their share, in the end all."""
    assert total >= 0 and passed >= 0 and periods > 0
    return 0 if passed < cliff else mul_div_floor(total, min(passed, periods), periods)
