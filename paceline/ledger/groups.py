"""The groups whose members hold shares of a signing key: the current one and the one before it.

A group comes out of a ceremony, the first one out of genesis. Its dealings stay on the ledger as long as the group may
sign, so that a member needs nothing but its own key to find its shares again.
Invariant: the current group has the highest number.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from paceline.base.dealing import Dealing
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import compute_address
from paceline.base.threshold import BLS_SCHEME, ThresholdScheme, compute_group_key
from paceline.economy.committee import Committee, choose_committee
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.genesis import Genesis

MAX_DEALING_BYTES = 160 * 1024
KEPT_GROUPS = 2

Point1 = Annotated[bytes, Meta(min_length=48, max_length=48)]
Point2 = Annotated[bytes, Meta(min_length=96, max_length=96)]
Share = Annotated[bytes, Meta(min_length=32, max_length=32)]
Proof = Annotated[bytes, Meta(min_length=64, max_length=64)]


class DealingRecord(Record, frozen=True):
    """A dealing as it travels; `shares` holds one ciphertext per slot, in the order of slots."""

    commitments: Annotated[tuple[Point2, ...], Meta(max_length=1_024)]
    ephemeral: Point1
    ephemeral_proof: Proof
    shares: Annotated[tuple[Share, ...], Meta(max_length=1_024)]


class Group(Record, frozen=True, kw_only=True):
    """Who can sign: members with their runs of slots, and the commitments that partial signatures are checked by."""

    number: int
    members: tuple[tuple[bytes, int], ...]
    slots: int
    threshold: int
    secrecy_ppm: int
    liveness_ppm: int
    drawn: bool
    commitments: tuple[bytes, ...]
    label: bytes
    """What the dealings' contexts begin with."""
    since: int
    """Height from which it signs."""

    def get_slots(self, address: bytes) -> range:
        """The slots of a member; none for anybody else."""
        return compute_slots(self.members, address)


GROUPS: Table[Group] = Table("groups/by-number", Group)
CURRENT: Table[int] = Table("groups/current", int)
DEALINGS: Table[DealingRecord] = Table("groups/dealing", DealingRecord)
LIARS: Table[int] = Table("groups/liar", int)
GROUP_KEYS: Table[bytes] = Table("groups/key", bytes)
"""What signatures of each group ever installed verify against."""


def apply_genesis(state: State, genesis: Genesis, scheme: ThresholdScheme = BLS_SCHEME) -> None:
    """The first group: the ceremony that genesis records, among the nodes of genesis.

    Errors: InvalidTransaction when the record is not a complete ceremony; the network cannot start then.
    """
    group, records = form_first_group(genesis, scheme)
    for address, record in records.items():
        DEALINGS.put(state, dealing_key(1, address), record)
    install(state, group)


def form_first_group(
    genesis: Genesis, scheme: ThresholdScheme = BLS_SCHEME
) -> tuple[Group, dict[bytes, DealingRecord]]:
    """The group that the ceremony in genesis makes, with its dealings; anybody with the genesis can do it.

    Errors: InvalidTransaction when the record is not a complete ceremony.
    """
    weights = {compute_address(node.public_key): node.weight for node in genesis.nodes}
    committee = choose_committee(weights, genesis.beacon, slots_per_member=genesis.params.slots_per_member)
    label = compute_genesis_label(genesis.network, genesis.beacon)
    total: tuple[bytes, ...] | None = None
    if len(genesis.dealings) != len(committee.members):
        raise InvalidTransaction("bad-genesis", "genesis needs one dealing from each member of the first group")
    records = {}
    for (address, _), data in zip(committee.members, genesis.dealings, strict=True):
        records[address] = decode_dealing(data, committee.threshold, committee.slots)
        check_dealing(records[address], compute_context(label, 1, address), scheme)
        total = scheme.aggregate(total, records[address].commitments)
    assert total is not None
    return make_group(committee, 1, total, label, 1), records


def get_current(state: State) -> Group:
    """The group that signs now."""
    group = GROUPS.get(state, _number_key(CURRENT.get(state) or 0))
    assert group is not None, "genesis installs the first group"
    return group


def get_former(state: State) -> Group | None:
    """The group before it, which stands in when the current one does not sign."""
    return GROUPS.get(state, _number_key((CURRENT.get(state) or 0) - 1))


def get_group(state: State, number: int) -> Group | None:
    """The current or the former group by number."""
    return GROUPS.get(state, _number_key(number)) if number >= 0 else None


def get_group_key(state: State, number: int) -> bytes | None:
    """What the signatures of a group verify against, also when it signs no more."""
    return GROUP_KEYS.get(state, _number_key(number))


def list_signers(state: State, asked_at: int, *, late: bool) -> list[Group]:
    """Groups that may sign what is asked at a height: the one in charge there, then the other kept one once it is late.

    The height alone decides who is in charge. Were it the block in which signatures arrive, its proposer could keep them
    back until the next group is in charge, and choose between two values.
    """
    current, former = get_current(state), get_former(state)
    if former is None:
        return [current]
    ordered = [former, current] if asked_at < current.since else [current, former]
    return ordered if late else ordered[:1]


def install(state: State, group: Group) -> None:
    """Make a group the current one; what belongs to the one before the former goes."""
    GROUPS.put(state, _number_key(group.number), group)
    GROUP_KEYS.put(state, _number_key(group.number), compute_group_key(group.commitments))
    CURRENT.put(state, b"", group.number)
    gone = group.number - KEPT_GROUPS
    if gone > 0:
        GROUPS.delete(state, _number_key(gone))
        forget_dealings(state, gone)
        for key, _ in LIARS.items(state, _number_key(gone)):
            LIARS.delete(state, key)


def forget_dealings(state: State, number: int) -> None:
    """Drop the dealings of a ceremony."""
    for key, _ in DEALINGS.items(state, _number_key(number)):
        DEALINGS.delete(state, key)


def make_group(committee: Committee, number: int, commitments: tuple[bytes, ...], label: bytes, since: int) -> Group:
    """The group of a committee whose ceremony is complete."""
    return Group(
        number=number,
        members=committee.members,
        slots=committee.slots,
        threshold=committee.threshold,
        secrecy_ppm=committee.secrecy_ppm,
        liveness_ppm=committee.liveness_ppm,
        drawn=committee.drawn,
        commitments=commitments,
        label=label,
        since=since,
    )


def compute_slots(members: tuple[tuple[bytes, int], ...], address: bytes) -> range:
    """The run of slots that a member owns."""
    first = 0
    for member, slots in members:
        if member == address:
            return range(first, first + slots)
        first += slots
    return range(0)


def compute_genesis_label(network: str, bootstrap: bytes) -> bytes:
    """The first ceremony cannot name the chain id, which hashes its outcome."""
    return hash_parts("ceremony-genesis", network.encode("ascii"), bootstrap)


def compute_label(chain_id: str) -> bytes:
    """What the contexts of every later ceremony begin with."""
    return hash_parts("ceremony-chain", chain_id.encode("ascii"))


def compute_context(label: bytes, number: int, dealer: bytes) -> bytes:
    """Names network, ceremony and dealer, so that no ciphertext can be dealt again elsewhere."""
    return hash_parts("ceremony", label, number.to_bytes(8, "big"), dealer)


def encode_dealing(dealing: Dealing, members: tuple[tuple[bytes, int], ...]) -> bytes:
    """A dealing as it travels."""
    shares = tuple(share for address, _ in members for share in dealing.shares[address])
    return encode(DealingRecord(dealing.commitments, dealing.ephemeral, dealing.ephemeral_proof, shares))


def decode_dealing(data: bytes, threshold: int, slots: int) -> DealingRecord:
    """Errors: InvalidTransaction too-large, malformed, non-canonical, wrong-threshold, wrong-slots."""
    record = decode(DealingRecord, data, limit_bytes=MAX_DEALING_BYTES)
    if len(record.commitments) != threshold:
        raise InvalidTransaction("wrong-threshold", f"{len(record.commitments)} commitments, {threshold} are due")
    if len(record.shares) != slots:
        raise InvalidTransaction("wrong-slots", f"{len(record.shares)} shares, {slots} are due")
    return record


def check_dealing(record: DealingRecord, context: bytes, scheme: ThresholdScheme) -> None:
    """Points that are points, and an ephemeral key that the dealer made itself.

    Errors: InvalidTransaction bad-point, bad-ephemeral.
    """
    scheme.check_commitments(record.commitments)
    scheme.check_ephemeral(record.ephemeral, record.ephemeral_proof, context)


def dealing_key(number: int, dealer: bytes) -> bytes:
    """Where a dealing stands in its table."""
    return _number_key(number) + dealer


def liar_key(number: int, address: bytes) -> bytes:
    """Where a member that signed wrongly is noted."""
    return _number_key(number) + address


def _number_key(number: int) -> bytes:
    return max(0, number).to_bytes(8, "big")
