"""The reward of the first big hosts on the ledger: who is eligible by verified weight, since when, and the daily payment.

A place is one host's weight of 1,000 A100: who has twice that holds two, under one name or under two, so splitting gains
nothing. Weights of genesis are verified by nobody and make no place. Seen at day edges and at the end of every epoch, so
weight that is there for the edge only does not do. It does not know what a seat pays. Invariant: what left the pool is what the
seats were paid.
Source: seed 001, Appendix E; SPEC section 3; decision 037.
"""

from __future__ import annotations

import msgspec

from paceline.economy.supply import TOP_HOSTS
from paceline.economy.top_hosts import Seat, open_seats, pay_day
from paceline.ledger import clock, earnings
from paceline.ledger.accounts import TOP_HOSTS_POOL, get_account, move_coins
from paceline.ledger.nodes import NODES
from paceline.ledger.race import WEIGHED
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.params import NetworkParams


class Place(Record, frozen=True, kw_only=True):
    """One weight's worth of one host, or the wait for a seat."""

    since: int
    """Height from which it is eligible: the longest wait has the next seat."""
    below: int = 0
    """Days in a row that it fell short."""
    was_low: bool = False
    """It fell short at the end of an epoch since the last day edge."""


PLACES: Table[Place] = Table("top-hosts/place", Place)
"""By address and the number of the place, one byte."""
SEATS: Table[tuple[Seat, ...]] = Table("top-hosts/seats", tuple[Seat, ...])
"""Held by places. Their number is fixed when the first day is paid."""


def end_block(state: State, params: NetworkParams) -> None:
    """At day edges pay the seats; at the ends of epochs note who fell short."""
    if params.pools.top_host_weight == 0:
        return
    if state.height % params.blocks_per_day == 0:
        _pay_day(state, params)
    elif clock.is_last(params, state.height):
        able = _find_able(state, params)
        for key, place in PLACES.items(state):
            if key not in able:
                PLACES.put(state, key, msgspec.structs.replace(place, was_low=True))


def get_seats(state: State, params: NetworkParams) -> tuple[Seat, ...]:
    """The seats, empty ones before the first day."""
    return SEATS.get(state) or open_seats(params.pools.top_host_seats)


def find_violations(state: State, params: NetworkParams) -> list[str]:
    """Sentences about what does not add up."""
    paid, left = sum(seat.paid for seat in get_seats(state, params)), get_account(state, TOP_HOSTS_POOL).balance
    return [] if paid + left == TOP_HOSTS else [f"top hosts: {paid} paid and {left} left do not make {TOP_HOSTS}"]


def _pay_day(state: State, params: NetworkParams) -> None:
    able = _find_able(state, params)
    eligible = _update_places(state, params, able)
    eligible.sort(key=lambda found: (found[0], -able[found[1]], found[1]))
    keys = [key for _, key in eligible]
    seats = tuple(_pass_on(state, seat) for seat in get_seats(state, params))
    payments, seats = pay_day(seats, keys, params.pools.top_host_grace_days)
    SEATS.put(state, b"", seats)
    for key, amount in payments.items():
        address = key[:-1]
        move_coins(state, TOP_HOSTS_POOL, address, amount)
        earnings.note_issued(state, address, amount)
        earnings.note_paid(state, address, amount)
        state.emit("top-host", node=address.hex(), amount=amount)


def _pass_on(state: State, seat: Seat) -> Seat:
    """A seat whose host is gone or on its way out is free at once: no grace for an exit."""
    return Seat(paid=seat.paid) if seat.holder and _is_gone(state, seat.holder) else seat


def _is_gone(state: State, key: bytes) -> bool:
    node = NODES.get(state, key[:-1])
    return node is None or node.leaves >= 0


def _find_able(state: State, params: NetworkParams) -> dict[bytes, int]:
    """Places that weights of this height are enough for, with the weight of their host."""
    if WEIGHED.get(state) is None:
        return {}
    each, most = params.pools.top_host_weight, params.pools.top_host_seats
    return {
        address + bytes([number]): node.weight
        for address, node in NODES.items(state)
        if node.leaves < 0
        for number in range(min(most, node.weight // each))
    }


def _update_places(state: State, params: NetworkParams, able: dict[bytes, int]) -> list[tuple[int, bytes]]:
    """Count the day for every place; who is eligible today, with its height."""
    eligible, known = [], PLACES.items(state)
    for key, place in known:
        if key in able and not place.was_low:
            PLACES.put(state, key, Place(since=place.since))
            eligible.append((place.since, key))
        elif _is_gone(state, key) or place.below >= params.pools.top_host_grace_days:
            PLACES.delete(state, key)
        else:
            PLACES.put(state, key, Place(since=place.since, below=place.below + 1))
    before = dict(known)
    for key in able:
        if key not in before:
            PLACES.put(state, key, Place(since=state.height))
            eligible.append((state.height, key))
    return eligible
