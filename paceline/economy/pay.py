"""How the fee of one piece of work is shared between the fund, the worker and those who checked it.

Source: seed 001 section 6 (an unchecked task pays its worker in full; a checked one pays the worker half and all
checkers together half) and section 8 (a fifth goes to the training fund first).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from paceline.base.integers import PPM, mul_div_floor


class Pay(NamedTuple):
    """One fee, shared to the unit: fund + worker + checkers = fee, less what owners of the model's shares get of it."""

    fund: int
    worker: int
    checkers: tuple[tuple[bytes, int], ...]

    @property
    def total(self) -> int:
        """The fee without that."""
        return self.fund + self.worker + sum(amount for _, amount in self.checkers)


def compute_pay(fee: int, checkers: Sequence[bytes], fund_ppm: int, part: int = 0) -> Pay:
    """Share a fee, less the `part` of the model's shares. Checkers are paid in equal parts; what does not divide stays with the worker.

    The fund's share is that of the whole fee; there is enough beside it.
    """
    fund = mul_div_floor(fee, fund_ppm, PPM)
    rest = fee - fund - part
    assert rest >= 0
    if not checkers:
        return Pay(fund, rest, ())
    each = rest // 2 // len(checkers)
    return Pay(fund, rest - each * len(checkers), tuple((checker, each) for checker in sorted(checkers)))


def compute_audited_pay(fee: int, auditors: Sequence[bytes], each: int, fund_ppm: int) -> Pay:
    """Share what a trainer earned and what each of its auditors earned beside it; the fund's share leaves every part."""
    fund, fund_each = mul_div_floor(fee, fund_ppm, PPM), mul_div_floor(each, fund_ppm, PPM)
    audits = tuple((auditor, each - fund_each) for auditor in sorted(auditors))
    return Pay(fund + fund_each * len(audits), fee - fund, audits)


def compute_task_cost(prompt_tokens: int, completion_tokens: int, token_price: int) -> int:
    """Nicoin for a task: prompt and answer tokens cost the same."""
    return (prompt_tokens + completion_tokens) * token_price
