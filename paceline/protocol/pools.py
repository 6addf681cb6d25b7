"""Messages on the coins outside the core reserve, on the test assets that buy them, and on what these count for.

Each names the worst price its sender takes, so that nobody is hurt by who trades first. It knows no price. Invariant: every
amount is bounded where it is decoded.
"""

from __future__ import annotations

from paceline.protocol.assets import TUSD, AssetName, QuotedName
from paceline.protocol.bridge import AttestHeader, ClaimDeposit, WithdrawAsset
from paceline.protocol.codec import Record
from paceline.protocol.fields import AddressBytes, Amount


class TransferAsset(Record, frozen=True, tag="transfer-asset"):
    """Move units of a test asset to another account."""

    to: AddressBytes
    amount: Amount
    asset: AssetName = TUSD


class BuyCoins(Record, frozen=True, tag="buy-coins"):
    """Buy so many nicoin of the liquidity pool for at most so many units of a test asset."""

    coins: Amount
    most: Amount
    asset: AssetName = TUSD


class RedeemCoins(Record, frozen=True, tag="redeem-coins"):
    """Give back so many nicoin that were issued to the sender for hosting, for at least so many units of a test asset."""

    coins: Amount
    least: Amount
    asset: AssetName = TUSD


class VoteQuote(Record, frozen=True, tag="vote-quote"):
    """A host's word on what one whole of a test asset counts for, in micro-dollars; it stands until the host gives another."""

    asset: QuotedName
    quote: Amount


PoolMessage = TransferAsset | BuyCoins | RedeemCoins | VoteQuote | AttestHeader | ClaimDeposit | WithdrawAsset
POOL_DUTIES = (AttestHeader, VoteQuote)
