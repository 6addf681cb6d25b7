"""The beacon: every few heights the group signs the height's number, and the one possible signature is the chance.

Nobody below the threshold can know a value before its height is final, choose it or prevent it: the message is fixed in
advance, holds nothing of any block, and is for the group in charge at that height alone. When that group is silent for
long, the other one that is kept may sign; while neither does, whatever waits for the value waits on. A block hash is
never used.
Invariant: a value exists only with a signature of a group that verifies.
Source: seed 001, Appendix B; decisions 004 and 014.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.base.draws import derive_seed
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.threshold import BLS_SCHEME, ThresholdScheme
from paceline.ledger import groups, nodes
from paceline.ledger.groups import Group
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.fields import PARTIAL_BYTES
from paceline.protocol.messages import PostPartials
from paceline.protocol.params import NetworkParams

HEIGHT, RACE = "height", "race"
KEPT_VALUES = 512
MOST_DUE = 8
"""How many missed indices that something waits for a member signs at a time."""
LATEST = 4
"""How many of the latest indices it signs, whether something waits for them or not."""


class BeaconValue(Record, frozen=True):
    """A signed height: the chance, and what proves it to outsiders."""

    value: bytes
    signature: bytes
    group: int
    height: int
    """Height at which it was complete."""


VALUES: Table[BeaconValue] = Table("beacon/value", BeaconValue)
PARTIALS: Table[bytes] = Table("beacon/partial", bytes)
WANTED: Table[int] = Table("beacon/wanted", int)
INTERVAL: Table[int] = Table("beacon/interval", int)


def apply_genesis(state: State, params: NetworkParams, bootstrap: bytes) -> None:
    """Index 0 is the bootstrap value of genesis."""
    VALUES.put(state, _key(0), BeaconValue(bootstrap, b"", 0, 0))
    INTERVAL.put(state, b"", params.beacon_interval)


def request_round(state: State) -> int:
    """Ask for chance: the index of the first height that is not final yet, whose signature nobody can have seen."""
    index = compute_next_index(state)
    WANTED.put(state, _key(index), state.height)
    return index


def compute_next_index(state: State) -> int:
    """Index of the next height to be signed, counted from the block under way."""
    return state.height // _get_interval(state) + 1


def get_due(state: State) -> list[int]:
    """Indices that may be signed now and are not: those that are waited for, and the latest few."""
    if state.height == 0:
        return []
    latest = state.height // _get_interval(state)
    wanted = [index for index in list_wanted(state) if index <= latest]
    due = [*wanted[:MOST_DUE], *range(max(1, latest - LATEST + 1), latest + 1)]
    return [index for index in dict.fromkeys(due) if VALUES.get(state, _key(index)) is None]


def list_wanted(state: State) -> list[int]:
    """Indices that something on the ledger waits for."""
    return [int.from_bytes(key, "big") for key, _ in WANTED.scan(state)]


def is_waiting(state: State) -> bool:
    """True while something on the ledger waits for a value."""
    return any(True for _ in WANTED.scan(state))


def get_value(state: State, index: int) -> bytes | None:
    """Value of an index that is signed and still kept, else None."""
    found = get_signed(state, index)
    return None if found is None else found.value


def get_signed(state: State, index: int) -> BeaconValue | None:
    """Value of an index with what proves it, else None."""
    return VALUES.get(state, _key(index))


def derive_at(state: State, index: int, purpose: str, *parts: bytes) -> bytes | None:
    """A seed for one purpose from a value, None while there is none."""
    value = get_value(state, index)
    return None if value is None else derive_seed(value, purpose, *parts)


def compute_message(chain_id: str, kind: str, number: int, group: int) -> bytes:
    """What a group signs for an index (`height`) or an epoch (`race`): nothing that anybody can influence."""
    parts = (chain_id.encode("ascii"), kind.encode("ascii"), number.to_bytes(8, "big"), group.to_bytes(8, "big"))
    return hash_parts("beacon-message", *parts)


def compute_value(signature: bytes) -> bytes:
    """The chance that a signature stands for."""
    return hash_parts("beacon-value", signature)


def verify_value(
    chain_id: str, index: int, found: BeaconValue, group_key: bytes, scheme: ThresholdScheme = BLS_SCHEME
) -> bool:
    """True when a value is what the group signed for the index; needs public data only."""
    message = compute_message(chain_id, HEIGHT, index, found.group)
    return found.value == compute_value(found.signature) and scheme.verify_group_signature(
        group_key, message, found.signature
    )


def apply_partials(
    state: State,
    params: NetworkParams,
    chain_id: str,
    sender: bytes,
    message: PostPartials,
    epoch: int,
    scheme: ThresholdScheme = BLS_SCHEME,
) -> None:
    """A member's partial signatures for a height that is final; enough of them make the value.

    Errors: InvalidTransaction not-due, already-signed, and those of `collect_partials`.
    """
    index = message.number
    # The block under way is not final: signing its own height could tell its proposer what to put into it.
    if index < 1 or index * params.beacon_interval >= state.height:
        raise InvalidTransaction("not-due", f"index {index} stands for a height that is not final")
    long_past = index <= state.height // params.beacon_interval - KEPT_VALUES
    if long_past and WANTED.get(state, _key(index)) is None:
        raise InvalidTransaction("not-due", f"index {index} is long past and nothing waits for it")
    if VALUES.get(state, _key(index)) is not None:
        raise InvalidTransaction("already-signed", f"index {index} has its value")
    asked_at = index * params.beacon_interval
    late = state.height - asked_at > params.fallback_blocks
    signature = collect_partials(
        state, chain_id, sender, message, epoch=epoch, former_allowed=late, scheme=scheme, asked_at=asked_at
    )
    if signature is None:
        return
    WANTED.delete(state, _key(index))
    VALUES.put(state, _key(index), BeaconValue(compute_value(signature), signature, message.group, state.height))
    state.emit("beacon-value", index=index, group=message.group)


def end_block(state: State, params: NetworkParams) -> None:
    """Forget what is long past: values, and partials of an index that nothing waits for."""
    latest, rest = divmod(state.height, params.beacon_interval)
    gone = latest - KEPT_VALUES
    if rest or gone < 0:
        return
    for key, found in VALUES.scan(state):
        if key > _key(gone):
            break
        # Counted from its completion: an index signed late is kept as long as one signed in time.
        if found.height <= gone * params.beacon_interval:
            VALUES.delete(state, key)
    if WANTED.get(state, _key(gone)) is None:
        forget_partials(state, HEIGHT, gone)


def collect_partials(
    state: State,
    chain_id: str,
    sender: bytes,
    message: PostPartials,
    *,
    epoch: int,
    former_allowed: bool,
    scheme: ThresholdScheme,
    asked_at: int | None = None,
) -> bytes | None:
    """Keep a member's partial signatures; the group's signature once there are enough, else None.

    `asked_at` is the height whose group must sign, now unless given; `former_allowed` lets the other kept group sign too.
    Partials are kept unchecked, because checking the one signature they lead to costs as much as checking one of them.
    Only when it is wrong is each member's looked at, and whoever lied is out of the group and guilty.
    Errors: InvalidTransaction wrong-group, too-early, not-a-member, wrong-partials, already-posted.
    """
    group = _expect_group(state, message, state.height if asked_at is None else asked_at, late=former_allowed)
    slots = group.get_slots(sender)
    if not slots or groups.LIARS.get(state, groups.liar_key(group.number, sender)) is not None:
        raise InvalidTransaction("not-a-member", f"this node signs nothing in group {group.number}")
    if len(message.partials) != len(slots):
        raise InvalidTransaction("wrong-partials", f"{len(message.partials)} partial signatures for {len(slots)} slots")
    prefix = _partial_prefix(message.kind, message.number, group.number)
    if PARTIALS.get(state, prefix + sender) is not None:
        raise InvalidTransaction("already-posted", "a member signs once")
    PARTIALS.put(state, prefix + sender, b"".join(message.partials))
    posted = {key[len(prefix) :]: split_partials(data) for key, data in PARTIALS.scan(state, prefix)}
    text = compute_message(chain_id, message.kind, message.number, group.number)
    # Without the liars there may still be enough, and nobody left who could post again.
    while sum(len(partials) for partials in posted.values()) >= group.threshold:
        signature = _try_to_combine(group, text, posted, scheme)
        if signature is not None:
            forget_partials(state, message.kind, message.number)
            return signature
        liars = _find_liars(group, text, posted, scheme)
        if not liars:
            return None
        for liar in liars:
            PARTIALS.delete(state, prefix + liar)
            _expel(state, group, liar, epoch)
            del posted[liar]
    return None


def forget_partials(state: State, kind: str, number: int) -> None:
    """Drop what was collected for an index or epoch."""
    for key, _ in PARTIALS.items(state, _subject_prefix(kind, number)):
        PARTIALS.delete(state, key)


def has_posted(state: State, kind: str, number: int, group: int, address: bytes) -> bool:
    """True when a member's partials are on the ledger and wait for those of others."""
    return PARTIALS.get(state, _partial_prefix(kind, number, group) + address) is not None


def split_partials(data: bytes) -> tuple[bytes, ...]:
    """Partial signatures of one member, in the order of its slots."""
    return tuple(data[at : at + PARTIAL_BYTES] for at in range(0, len(data), PARTIAL_BYTES))


def _expect_group(state: State, message: PostPartials, asked_at: int, *, late: bool) -> Group:
    in_charge, *others = groups.list_signers(state, asked_at, late=True)
    if message.group == in_charge.number:
        return in_charge
    found = next((group for group in others if group.number == message.group), None)
    if found is None:
        raise InvalidTransaction("wrong-group", f"group {message.group} does not sign, {in_charge.number} does")
    if not late:
        raise InvalidTransaction("too-early", f"group {in_charge.number} still has time to sign")
    return found


def _try_to_combine(
    group: Group, text: bytes, posted: Mapping[bytes, tuple[bytes, ...]], scheme: ThresholdScheme
) -> bytes | None:
    by_slot = {
        slot: partial
        for address, partials in sorted(posted.items())
        for slot, partial in zip(group.get_slots(address), partials, strict=True)
    }
    try:
        signature = scheme.combine(by_slot, group.threshold)
    except InvalidTransaction:
        return None
    fine = scheme.verify_group_signature(scheme.compute_group_key(group.commitments), text, signature)
    return signature if fine else None


def _find_liars(
    group: Group, text: bytes, posted: Mapping[bytes, tuple[bytes, ...]], scheme: ThresholdScheme
) -> list[bytes]:
    def is_right(address: bytes) -> bool:
        by_slot = dict(zip(group.get_slots(address), posted[address], strict=True))
        return scheme.verify_partials(group.commitments, text, by_slot)

    return [address for address in sorted(posted) if not is_right(address)]


def _expel(state: State, group: Group, liar: bytes, epoch: int) -> None:
    groups.LIARS.put(state, groups.liar_key(group.number, liar), state.height)
    nodes.update_node(state, liar, guilty=epoch, reputation=0)
    state.emit("beacon-wrong-partial", group=group.number, node=liar.hex())


def _subject_prefix(kind: str, number: int) -> bytes:
    return kind.encode("ascii") + b"/" + number.to_bytes(8, "big")


def _partial_prefix(kind: str, number: int, group: int) -> bytes:
    return _subject_prefix(kind, number) + group.to_bytes(8, "big")


def _get_interval(state: State) -> int:
    interval = INTERVAL.get(state)
    assert interval is not None, "genesis writes it"
    return interval


def _key(index: int) -> bytes:
    return index.to_bytes(8, "big")
