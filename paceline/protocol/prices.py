"""The message by which hosts agree on what a unit of compute costs. Bounded at decode; what a price may be, `economy.prices` says."""

from __future__ import annotations

from paceline.protocol.codec import Record
from paceline.protocol.fields import Amount


class VotePrice(Record, frozen=True, tag="vote-price"):
    """A host's word on the price of a unit of compute, in nicoin; it stands until the host gives another."""

    price: Amount
