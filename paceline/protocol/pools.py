"""Messages on the coins outside the core reserve, and on the stable test asset that buys them.

Each names the worst price its sender takes, so that nobody is hurt by who trades first. It knows no price. Invariant: every
amount is bounded where it is decoded.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.bridge import AttestHeader, ClaimDeposit, WithdrawAsset
from paceline.protocol.codec import Record

_Address = Annotated[bytes, Meta(min_length=20, max_length=20)]
_Amount = Annotated[int, Meta(ge=0, le=10**18)]


class TransferAsset(Record, frozen=True, tag="transfer-asset"):
    """Move micro-dollars of the test asset to another account."""

    to: _Address
    amount: _Amount


class BuyCoins(Record, frozen=True, tag="buy-coins"):
    """Buy so many nicoin of the liquidity pool for at most so many micro-dollars."""

    coins: _Amount
    most: _Amount


class RedeemCoins(Record, frozen=True, tag="redeem-coins"):
    """Give back so many nicoin that were issued to the sender for hosting, for at least so many micro-dollars."""

    coins: _Amount
    least: _Amount


PoolMessage = TransferAsset | BuyCoins | RedeemCoins | AttestHeader | ClaimDeposit | WithdrawAsset
POOL_DUTIES = (AttestHeader,)
