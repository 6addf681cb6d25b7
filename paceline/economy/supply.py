"""Where the billion coins stand at genesis, and how many leave the reserve per epoch.

Source: seed 001, Appendices E and F; the amounts in coins are exact, the smallest unit is the nicoin (1e-9).
"""

from __future__ import annotations

from paceline.base.integers import mul_div_floor
from paceline.protocol.params import NICOIN_PER_COIN

TOTAL_SUPPLY = 1_000_000_000 * NICOIN_PER_COIN
CORE_RESERVE = 600_000_000 * NICOIN_PER_COIN
TOP_HOSTS = 120_000_000 * NICOIN_PER_COIN
LIQUIDITY_POOL = 120_000_000 * NICOIN_PER_COIN
FOUNDERS = 160_000_000 * NICOIN_PER_COIN

DAILY_FLOOR = 136_986 * NICOIN_PER_COIN
DAYS_PER_YEAR = 365


def compute_floor_issuance(first_height: int, epoch_blocks: int, blocks_per_day: int, reserve_left: int) -> int:
    """Nicoin that an epoch issues at least: 136,986 coins a day in year one, halved every year.

    Units: heights and blocks in, nicoin out; never more than the reserve still holds.
    Source: seed 001, Appendix F.
    """
    year = first_height // (blocks_per_day * DAYS_PER_YEAR)
    daily = DAILY_FLOOR >> year
    return min(mul_div_floor(daily, epoch_blocks, blocks_per_day), reserve_left)
