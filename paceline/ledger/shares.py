"""Runs that their participants pay for, and the share table that they get: a part of every later fee for the model, to the nicoin.

Participants put coins into a run's escrow. At its close what was not spent returns in proportion, and who paid for what was spent
gets as much of a million shares. The network's vote says which models a run made: their entries name it. Then a stated part of each
fee for such a model is split by the table. It refuses to know rounds and prices.
Invariant: the shares of a run add up to exactly 1,000,000, whoever holds them; a fee's part is split to the last nicoin.
Source: seed 001, Appendices H and K; SPEC section 4; decision 042.
"""

from __future__ import annotations

from typing import NamedTuple

from paceline.base.errors import InvalidTransaction
from paceline.base.integers import PPM, mul_div_floor, split_proportionally
from paceline.ledger import model_registry
from paceline.ledger.accounts import HELD_PAY, POOLS, RUN_ESCROW, move_coins
from paceline.ledger.run_money import ID_BYTES
from paceline.ledger.state import State, Table
from paceline.protocol.funding import TransferShares
from paceline.protocol.proposals import ModelEntry

MOST_PARTS = 256
"""Parts that a run's goal is paid in at most; smaller ones are refused, or the table could be filled with dust."""
MOST_HOLDERS = 1_024
"""Of one run's shares."""

CONTRIBUTIONS: Table[int] = Table("shares/contribution", int)
"""Nicoin by run and participant, until the run is over."""
SHARES: Table[int] = Table("shares/held", int)
"""Millionths by run and holder."""
FEES: Table[int] = Table("shares/fee", int)
"""Share of later fees that a run's table splits, by run. Units: parts per million."""
OWED: Table[int] = Table("shares/owed", int)
"""Nicoin by run that a settlement under way has taken out of fees."""


def get_shares(state: State, run_id: bytes) -> dict[bytes, int]:
    """Who holds how many millionths."""
    return {key[ID_BYTES:]: ppm for key, ppm in SHARES.items(state, run_id)}


def get_contributions(state: State, run_id: bytes) -> dict[bytes, int]:
    """Who has put in how much so far."""
    return {key[ID_BYTES:]: amount for key, amount in CONTRIBUTIONS.items(state, run_id)}


class Room(NamedTuple):
    """The coins that a run begins with, and how many it lacks by now. Units: nicoin."""

    goal: int
    lacking: int


def contribute(state: State, run_id: bytes, sender: bytes, amount: int, room: Room) -> None:
    """Note what a participant puts into a run. Errors: InvalidTransaction over-goal, small-part."""
    if amount > room.lacking:
        raise InvalidTransaction("over-goal", f"the run lacks {room.lacking} nicoin, and takes no more")
    least = min(room.lacking, -(-room.goal // MOST_PARTS))
    if amount < least:
        raise InvalidTransaction("small-part", f"at least {least} nicoin are put into this run at once")
    CONTRIBUTIONS.put(state, run_id + sender, (CONTRIBUTIONS.get(state, run_id + sender) or 0) + amount)


def close_run(state: State, run_id: bytes, fee_ppm: int, rest: int) -> None:
    """Return what was not spent, and write the table of those who paid for what was; none when nothing was spent."""
    put_in = get_contributions(state, run_id)
    returned = split_proportionally(rest, put_in)
    for address, amount in returned.items():
        move_coins(state, RUN_ESCROW, address, amount)
        CONTRIBUTIONS.delete(state, run_id + address)
    spent = {address: amount - returned[address] for address, amount in put_in.items()}
    if not any(spent.values()):
        return
    FEES.put(state, run_id, fee_ppm)
    for address, ppm in split_proportionally(PPM, spent).items():
        _put(state, run_id, address, ppm)
    state.emit("shares", run=run_id.hex(), holders=len(spent), fee_ppm=fee_ppm)


def apply_transfer(state: State, sender: bytes, message: TransferShares) -> None:
    """Hand shares to another account.

    Errors: InvalidTransaction no-shares, over-shares, pool-address, too-many-holders.
    """
    if FEES.get(state, message.run) is None:
        raise InvalidTransaction("no-shares", "no run of this id has a share table")
    if message.to in POOLS.values():
        raise InvalidTransaction("pool-address", "pools hold no shares")
    held = SHARES.get(state, message.run + sender) or 0
    if message.ppm > held:
        raise InvalidTransaction("over-shares", f"this account holds {held} millionths, {message.ppm} are offered")
    _put(state, message.run, sender, held - message.ppm)
    _put(state, message.run, message.to, (SHARES.get(state, message.run + message.to) or 0) + message.ppm)
    if len(SHARES.items(state, message.run)) > MOST_HOLDERS:
        raise InvalidTransaction(
            "too-many-holders", f"{MOST_HOLDERS} accounts hold shares of this run, which is all that may"
        )
    state.emit("shares-moved", run=message.run.hex(), source=sender.hex(), to=message.to.hex(), ppm=message.ppm)


def require_entry(state: State, entry: ModelEntry) -> None:
    """A registry entry that names a run with a table or none, and the same as the model's entry before once that names one.

    Errors: InvalidTransaction no-shares, shares-stand.
    """
    if entry.run and FEES.get(state, entry.run) is None:
        raise InvalidTransaction("no-shares", "the entry names a run that has no share table")
    former = model_registry.get_entry(state, entry.name)
    if former is not None and former.run not in {b"", entry.run}:
        raise InvalidTransaction("shares-stand", f"{entry.name} was made by another run, whose shares stand")


def take_part(state: State, model: str, fee: int) -> int:
    """What a fee for a model owes to the shares of the run that made it; the settlement pays it out of held pay. Units: nicoin."""
    entry = model_registry.get_entry(state, model)
    if entry is None or not entry.run:
        return 0
    part = mul_div_floor(fee, FEES.get(state, entry.run) or 0, PPM)
    OWED.put(state, entry.run, (OWED.get(state, entry.run) or 0) + part)
    return part


def pay_owed(state: State) -> None:
    """Split what an epoch's fees owe, once for each run: largest remainder first, and nothing is left over."""
    for run_id, amount in OWED.items(state):
        OWED.delete(state, run_id)
        for address, part in split_proportionally(amount, get_shares(state, run_id)).items():
            move_coins(state, HELD_PAY, address, part)
        state.emit("shares-paid", run=run_id.hex(), amount=amount)


def find_violations(state: State) -> list[str]:
    """Sentences about tables that do not add up."""
    found = [
        f"run {run_id.hex()}: its shares add up to {sum(get_shares(state, run_id).values())}"
        for run_id, _ in FEES.items(state)
        if sum(get_shares(state, run_id).values()) != PPM
    ]
    return [
        *found,
        *(f"run {run_id.hex()}: {amount} nicoin are owed to its shares" for run_id, amount in OWED.items(state)),
    ]


def _put(state: State, run_id: bytes, address: bytes, ppm: int) -> None:
    if ppm:
        SHARES.put(state, run_id + address, ppm)
    else:
        SHARES.delete(state, run_id + address)
