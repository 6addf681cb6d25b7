"""Compute credits: units of compute paid ahead at an epoch's price, spent on work of any kind at that price, never passed on.

The coins behind credits wait in a pool until something is opened with them; hosts are then paid from its escrow as always. An
account has one price, the mean of what it paid. Credits that nobody used go back as the coins that were paid: when their owner
asks, or some epochs after their mean purchase, so that nobody holds an old price for ever. It knows no hosts and no tasks.
Invariant: the pool holds exactly the coins behind all credits.
Source: seed 003; SPEC section 3; decision 040.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.integers import mul_div_floor
from paceline.economy.prices import MICRO_UNITS, compute_token_price
from paceline.ledger import liquidity, model_registry, prices
from paceline.ledger.accounts import CREDIT_ESCROW, move_coins
from paceline.ledger.channel_records import CHANNELS, compute_channel_id, put_channel
from paceline.ledger.sessions import SESSIONS, compute_session_id
from paceline.ledger.state import State, Table
from paceline.protocol.channels import OpenChannel
from paceline.protocol.codec import Record
from paceline.protocol.credits import DOLLARS, MAX_MICRO_UNITS, BuyCredits, UseCredits
from paceline.protocol.openings import OpenRun, OpenSession
from paceline.protocol.params import NetworkParams


class Credit(Record, frozen=True, kw_only=True):
    """What an account has paid ahead. Units: millionths of a unit of compute; nicoin; mean epoch of the purchases, rounded down."""

    micro_units: int
    nicoin: int
    epoch: int

    @property
    def unit_price(self) -> int:
        """Nicoin a unit of compute that was paid for them, rounded down."""
        return max(1, mul_div_floor(self.nicoin, MICRO_UNITS, self.micro_units))


CREDITS: Table[Credit] = Table("credits/by-account", Credit)


def compute_cost(state: State, params: NetworkParams, micro_units: int) -> int:
    """Nicoin that so many millionths of a unit cost in this epoch, rounded up."""
    return -(-prices.get_unit_price(state, params) * micro_units // MICRO_UNITS)


def apply_buy(state: State, params: NetworkParams, sender: bytes, message: BuyCredits, epoch: int) -> None:
    """Pay ahead, in coins or through the liquidity pool in the test asset.

    Errors: InvalidTransaction zero-amount, too-many-units, price-moved, over-balance, and those of the pool.
    """
    if message.micro_units == 0:
        raise InvalidTransaction("zero-amount", "buy at least one millionth of a unit of compute")
    had = CREDITS.get(state, sender) or Credit(micro_units=0, nicoin=0, epoch=epoch)
    held = had.micro_units + message.micro_units
    if held > MAX_MICRO_UNITS:
        raise InvalidTransaction("too-many-units", f"an account holds {MAX_MICRO_UNITS} millionths of a unit at most")
    cost = compute_cost(state, params, message.micro_units)
    if message.pays == DOLLARS:
        liquidity.buy_for(state, params, sender, (cost, message.most), CREDIT_ESCROW)
    elif cost > message.most:
        raise InvalidTransaction("price-moved", f"costs {cost} nicoin, {message.most} is the limit")
    else:
        move_coins(state, sender, CREDIT_ESCROW, cost)
    # A little more of them does not make all of them young.
    mean = (had.epoch * had.micro_units + epoch * message.micro_units) // held
    CREDITS.put(state, sender, Credit(micro_units=held, nicoin=had.nicoin + cost, epoch=mean))
    state.emit("credits-bought", account=sender.hex(), micro_units=message.micro_units, cost=cost)


def take_for(state: State, sender: bytes, message: UseCredits) -> int:
    """Burn the credits that an opening costs and hand their coins to the sender, who opens with them at once.

    Nicoin a unit that was paid for them. Errors: InvalidTransaction over-credits.
    """
    opening = message.opening
    needed = opening.budget if isinstance(opening, OpenRun) else opening.deposit
    had = CREDITS.get(state, sender)
    if had is None or needed > had.nicoin:
        held = 0 if had is None else had.nicoin
        raise InvalidTransaction("over-credits", f"needs credits for {needed} nicoin, the account has them for {held}")
    burnt = -(-had.micro_units * needed // had.nicoin)
    _put(state, sender, msgspec.structs.replace(had, micro_units=had.micro_units - burnt, nicoin=had.nicoin - needed))
    move_coins(state, CREDIT_ESCROW, sender, needed)
    state.emit("credits-used", account=sender.hex(), micro_units=burnt, cost=needed)
    return had.unit_price


def keep_price(state: State, sender: bytes, transaction_hash: bytes, message: UseCredits, unit_price: int) -> None:
    """What was just opened with credits pays the price of these credits to its end. A run's pay is its budget, whatever units cost."""
    opening = message.opening
    if isinstance(opening, OpenRun):
        return
    price = compute_token_price(unit_price, model_registry.get_micro_units(state, opening.model))
    if isinstance(opening, OpenSession):
        session_id = compute_session_id(sender, transaction_hash)
        session = SESSIONS.get(state, session_id)
        assert session is not None
        SESSIONS.put(state, session_id, msgspec.structs.replace(session, token_price=price))
        return
    channel_id = compute_channel_id(sender, transaction_hash)
    channel = CHANNELS.get(state, channel_id)
    assert channel is not None
    put_channel(state, channel_id, msgspec.structs.replace(channel, token_price=price))


def apply_return(state: State, sender: bytes) -> None:
    """Unused credits become coins again, at the price that was paid. Errors: InvalidTransaction no-credits."""
    had = CREDITS.get(state, sender)
    if had is None:
        raise InvalidTransaction("no-credits", "this account has no compute credits")
    _return(state, sender, had)


def end_epoch(state: State, params: NetworkParams, epoch: int) -> None:
    """What nobody used for so long returns by itself."""
    for owner, had in CREDITS.items(state):
        if epoch >= had.epoch + params.credit_epochs:
            _return(state, owner, had)


def pay_with(state: State, owner: bytes, opening: OpenSession | OpenChannel) -> OpenSession | OpenChannel | UseCredits:
    """The message by which an account opens: out of its credits where they cover it, since they end and coins do not."""
    had = CREDITS.get(state, owner)
    return UseCredits(opening) if had is not None and had.nicoin >= opening.deposit else opening


def get_token_price(state: State, params: NetworkParams, owner: bytes, model: str) -> int:
    """Nicoin a token that an account's next session costs at most: what hosts ask, or what its credits were paid at."""
    had, price = CREDITS.get(state, owner), prices.get_token_price(state, params, model)
    if had is None:
        return price
    return max(price, compute_token_price(had.unit_price, model_registry.get_micro_units(state, model)))


def compute_backing(state: State) -> int:
    """Nicoin behind all credits."""
    return sum(credit.nicoin for _, credit in CREDITS.items(state))


def _return(state: State, owner: bytes, had: Credit) -> None:
    CREDITS.delete(state, owner)
    move_coins(state, CREDIT_ESCROW, owner, had.nicoin)
    state.emit("credits-returned", account=owner.hex(), micro_units=had.micro_units, amount=had.nicoin)


def _put(state: State, owner: bytes, credit: Credit) -> None:
    # What rounding leaves of units without a coin behind them, or of coins without units, ends with the last use.
    if credit.micro_units and credit.nicoin:
        CREDITS.put(state, owner, credit)
        return
    CREDITS.delete(state, owner)
    move_coins(state, CREDIT_ESCROW, owner, credit.nicoin)
