"""The reward of the first big hosts: 120 million coins in daily instalments over four years, seat by seat.

A seat belongs to the first host that was eligible and is kept while it stays so; who falls below for too long, or leaves,
passes the rest of its seat to the next eligible one. A seat without an eligible holder pays nothing, and its rest waits.
It knows addresses and eligibility, not what makes eligible. Invariant: no seat ever pays more than its share of the whole.

Source: seed 001, Appendix E; SPEC section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.economy.supply import DAYS_PER_YEAR, TOP_HOSTS
from paceline.protocol.codec import Record

DAYS = 4 * DAYS_PER_YEAR


class Seat(Record, frozen=True, kw_only=True):
    """One share. Units: nicoin `paid` so far; `holder` empty when nobody has it; `below` days without eligibility."""

    holder: bytes = b""
    paid: int = 0
    below: int = 0


def open_seats(count: int) -> tuple[Seat, ...]:
    """So many empty seats."""
    assert count > 0
    return (Seat(),) * count


def pay_day(
    seats: tuple[Seat, ...], eligible: Sequence[bytes], most_below: int
) -> tuple[dict[bytes, int], tuple[Seat, ...]]:
    """One day: who is paid how many nicoin, and the seats afterwards.

    `eligible` names today's eligible hosts, the longest eligible first; one host holds one seat. A holder below is not paid
    for that day, and loses its seat after more than `most_below` such days in a row.
    """
    able = dict.fromkeys(eligible)
    kept = [_keep(seat, seat.holder in able, most_below) for seat in seats]
    holders = {seat.holder: None for seat in kept if seat.holder}
    waiting = [address for address in able if address not in holders]
    payments: dict[bytes, int] = {}
    after = []
    share = TOP_HOSTS // len(seats)
    for seat in kept:
        holder = seat.holder
        if not holder and waiting and seat.paid < share:
            holder = waiting.pop(0)
        instalment = min(-(-share // DAYS), share - seat.paid) if holder in able else 0
        if instalment:
            payments[holder] = instalment
        after.append(Seat(holder=holder, paid=seat.paid + instalment, below=seat.below))
    return dict(sorted(payments.items())), tuple(after)


def _keep(seat: Seat, is_able: bool, most_below: int) -> Seat:
    if not seat.holder or is_able:
        return Seat(holder=seat.holder, paid=seat.paid)
    if seat.below >= most_below:
        return Seat(paid=seat.paid)
    return Seat(holder=seat.holder, paid=seat.paid, below=seat.below + 1)
