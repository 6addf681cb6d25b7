"""What a node tells anybody about the beacon of a height: the value, its signature, and the group that gave it.

All of it is public, and the asker checks it: a node that lies is found out by the signature.
"""

from __future__ import annotations

from paceline.base.errors import InvalidTransaction
from paceline.ledger import beacon, groups
from paceline.ledger.beacon import BeaconValue
from paceline.ledger.state import State
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.fields import Height
from paceline.protocol.params import NetworkParams

MAX_REQUEST_BYTES = 64
MAX_ANSWER_BYTES = 1024


class BeaconRequest(Record, frozen=True):
    """Asks for the beacon of a height."""

    height: Height


class GroupBounds(Record, frozen=True, kw_only=True):
    """Who holds a group's key. Shares of all weight in ppm, as in `economy.committee`."""

    members: int
    slots: int
    threshold: int
    secrecy_ppm: int
    liveness_ppm: int


class BeaconAnswer(Record, frozen=True, kw_only=True):
    """A signed height. `bounds` is None when the ledger has forgotten the group."""

    signed: BeaconValue
    group_key: bytes
    bounds: GroupBounds | None


def answer_beacon(state: State, params: NetworkParams, body: bytes) -> bytes:
    """The answer to a request in bytes.

    Errors: InvalidTransaction malformed; not-signed when there is no value; pruned when there is none any more, naming
    the first height held.
    """
    height = decode(BeaconRequest, body, limit_bytes=MAX_REQUEST_BYTES).height
    index, rest = divmod(height, params.beacon_interval)
    signed = beacon.get_signed(state, index) if rest == 0 and index > 0 else None
    if signed is None:
        raise _explain(state, params.beacon_interval, height)
    key = groups.get_group_key(state, signed.group)
    assert key is not None, "a value was verified against it"
    bounds = _describe(groups.get_group(state, signed.group))
    return encode(BeaconAnswer(signed=signed, group_key=key, bounds=bounds))


def _explain(state: State, interval: int, height: int) -> InvalidTransaction:
    gone = (state.height // interval - beacon.KEPT_VALUES) * interval
    if height % interval == 0 and 0 < height <= gone:
        kept = (int.from_bytes(key, "big") for key, _ in beacon.VALUES.scan(state))
        first = next((index * interval for index in kept if index > 0), None)
        held = "none is held" if first is None else f"the first height held is {first}"
        return InvalidTransaction(
            "pruned", f"no value of height {height} is held any more at height {state.height}; {held}"
        )
    return InvalidTransaction(
        "not-signed", f"height {height} has no value at height {state.height}; every {interval}th is signed"
    )


def _describe(group: groups.Group | None) -> GroupBounds | None:
    if group is None:
        return None
    return GroupBounds(
        members=len(group.members),
        slots=group.slots,
        threshold=group.threshold,
        secrecy_ppm=group.secrecy_ppm,
        liveness_ppm=group.liveness_ppm,
    )
