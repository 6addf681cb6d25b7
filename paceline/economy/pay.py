"""How the fee of one piece of work is shared between the fund, the worker and those who checked it.

Source: seed 001 section 6 (an unchecked task pays its worker in full; a checked one pays the worker half and all
checkers together half) and section 8 (a fifth goes to the training fund first).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

from paceline.base.integers import PPM, mul_div_floor


class Pay(NamedTuple):
    """One fee, shared to the unit: fund + worker + checkers = fee."""

    fund: int
    worker: int
    checkers: tuple[tuple[bytes, int], ...]


def compute_pay(fee: int, checkers: Sequence[bytes], fund_ppm: int) -> Pay:
    """Share a fee. Checkers are paid in equal parts; what does not divide stays with the worker."""
    fund = mul_div_floor(fee, fund_ppm, PPM)
    rest = fee - fund
    if not checkers:
        return Pay(fund, rest, ())
    each = rest // 2 // len(checkers)
    return Pay(fund, rest - each * len(checkers), tuple((checker, each) for checker in sorted(checkers)))


def compute_task_cost(prompt_tokens: int, completion_tokens: int, token_price: int) -> int:
    """Nicoin for a task: prompt and answer tokens cost the same."""
    return (prompt_tokens + completion_tokens) * token_price


def compute_criterion_ppm(fulfilled: int, drawn: int) -> int:
    """Share of held pay that the validation criterion releases: fulfilled duties over publicly drawn ones.

    One missed duty is forgiven per epoch (a machine may restart); a node that was drawn for nothing loses nothing.
    """
    if drawn == 0:
        return PPM
    return min(PPM, mul_div_floor(fulfilled + 1, PPM, drawn))


def compute_work_criterion_ppm(answered: int, drawn: int, absence_ppm: int) -> int:
    """Share of held pay that the work proportion releases: answered tasks over those that were publicly a node's own.

    What a node was drawn for is counted, never what it might have been drawn for, so bad luck in the draw costs nothing.
    Forgiven are the stated absence, three standard deviations of the number of tasks that such an absence hits, and one.
    """
    if drawn == 0:
        return PPM
    deviation_ppm = isqrt(drawn * absence_ppm * (PPM - absence_ppm))
    forgiven_ppm = drawn * absence_ppm + 3 * deviation_ppm + PPM
    excess_ppm = max(0, (drawn - answered) * PPM - forgiven_ppm)
    return PPM - min(PPM, (excess_ppm + drawn - 1) // drawn)
