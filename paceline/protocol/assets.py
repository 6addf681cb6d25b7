"""The test assets by name: what they stand for, and how fine they are. None has any value.

tUSD stands for a stable dollar, tETH for ether, tBTC for bitcoin. It knows no balances and no quotes.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

TUSD, TETH, TBTC = "tUSD", "tETH", "tBTC"
DIGITS = {TUSD: 6, TETH: 9, TBTC: 8}
"""Digits after the point: the smallest units are the micro-dollar, the gwei and the satoshi."""
QUOTED = (TETH, TBTC)
"""Those that need a quote to be compared with a dollar."""

AssetName = Annotated[str, Meta(pattern=r"^(tUSD|tETH|tBTC)\Z")]
QuotedName = Annotated[str, Meta(pattern=r"^(tETH|tBTC)\Z")]
