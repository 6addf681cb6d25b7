"""Messages on compute credits: units of compute paid ahead at today's price, for work of any kind. Bounded at decode.

They name no receiver: credits are not transferable. What opening a session, a channel or a run with them looks like is the
usual message inside.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.protocol.channels import OpenChannel
from paceline.protocol.codec import Record
from paceline.protocol.fields import Amount
from paceline.protocol.openings import OpenRun, OpenSession

COINS, DOLLARS = "coins", "dollars"
MAX_MICRO_UNITS = 10**18


class BuyCredits(Record, frozen=True, tag="buy-credits"):
    """Pay for so many millionths of a unit of compute at the epoch's price."""

    micro_units: Annotated[int, Meta(ge=0, le=MAX_MICRO_UNITS)]
    pays: Annotated[str, Meta(pattern=r"^(coins|dollars)\Z")]
    most: Amount
    """Nicoin, or micro-dollars of the test asset, that the sender pays at most."""


class UseCredits(Record, frozen=True, tag="use-credits"):
    """Open what the message inside opens; its deposit or budget comes out of credits, at the price that was paid for them."""

    opening: OpenSession | OpenChannel | OpenRun


class ReturnCredits(Record, frozen=True, tag="return-credits"):
    """Give all unused credits back for the coins that were paid for them."""


CreditMessage = BuyCredits | UseCredits | ReturnCredits
