"""Messages on the coins outside the core reserve, and on the stable test asset that buys them.

Each names the worst price its sender takes, so that nobody is hurt by who trades first. It knows no price. Invariant: every
amount is bounded where it is decoded.
"""

from __future__ import annotations

from paceline.protocol.bridge import AttestHeader, ClaimDeposit, WithdrawAsset
from paceline.protocol.codec import Record
from paceline.protocol.fields import AddressBytes, Amount


class TransferAsset(Record, frozen=True, tag="transfer-asset"):
    """Move micro-dollars of the test asset to another account."""

    to: AddressBytes
    amount: Amount


class BuyCoins(Record, frozen=True, tag="buy-coins"):
    """Buy so many nicoin of the liquidity pool for at most so many micro-dollars."""

    coins: Amount
    most: Amount


class RedeemCoins(Record, frozen=True, tag="redeem-coins"):
    """Give back so many nicoin that were issued to the sender for hosting, for at least so many micro-dollars."""

    coins: Amount
    least: Amount


PoolMessage = TransferAsset | BuyCoins | RedeemCoins | AttestHeader | ClaimDeposit | WithdrawAsset
POOL_DUTIES = (AttestHeader,)
