"""The secret side of the beacon: a node's group key, its shares, what it deals and what it denounces.

Everything secret follows from the node's own key and the dealings on the ledger, so a restarted or wiped node finds its
place again without having stored a share. It sends nothing and knows no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paceline.base.bls import EncryptionKey
from paceline.base.dealing import (
    Recipient,
    deal,
    decrypt_shares,
    find_bad_dealings,
    prove_complaint,
    verify_shares_batched,
)
from paceline.base.hashing import hash_parts
from paceline.base.private_draws import Lot, compute_point, draw_lot
from paceline.base.threshold import compute_slot_secret, sign_partial
from paceline.ledger import groups, nodes
from paceline.ledger.ceremony import GUILTY, Ceremony, get_member_key
from paceline.ledger.groups import DEALINGS, DealingRecord, Group
from paceline.ledger.state import State
from paceline.protocol.messages import PostComplaint, PostDealing

PART_BYTES = 60 * 1024
KEPT_SECRETS = 3

Members = tuple[tuple[bytes, int], ...]
"""(address, slots) of a committee, in the order of slots."""


class CeremonyKey:
    """One node's part in every group it belongs to. Never printed."""

    def __init__(self, address: bytes, secret: bytes) -> None:
        self._address = address
        self._secret = secret
        self._key = EncryptionKey.from_secret(secret)
        self._slot_secrets: dict[int, tuple[int, ...]] = {}

    @property
    def public_key(self) -> bytes:
        """The group key that others encrypt shares to."""
        return self._key.public_key

    @property
    def dealer_secret(self) -> bytes:
        """What the coefficients of every dealing of this node are derived from."""
        return hash_parts("ceremony-dealer", self._secret)

    def prove_possession(self, label: str) -> bytes:
        """Shows a network or chain that this node holds the key."""
        return self._key.prove_possession(nodes.compute_possession_context(label, self._address))

    def make_contribution(self, chain_id: str, epoch: int) -> bytes:
        """The contribution of the node to an epoch's seed: the same after a restart, unknown to everybody else."""
        return hash_parts("seed-contribution", self._secret, chain_id.encode("ascii"), epoch.to_bytes(8, "big"))

    def draw_lot(self, message: bytes) -> Lot:
        """What this key draws for a message: nobody else knows it before it is shown."""
        return draw_lot(self._key, message)

    def compute_lot_point(self, message: bytes) -> bytes:
        """The same without its proof."""
        return compute_point(self._key, message)

    def sign(self, state: State, group: Group, message: bytes) -> tuple[bytes, ...]:
        """Partial signatures of all own slots; none for a group in which this node holds no sound shares."""
        return tuple(sign_partial(secret, message) for secret in self._get_slot_secrets(state, group))

    def deal(self, ceremony: Ceremony, keys: Mapping[bytes, bytes], chain_id: str) -> list[PostDealing]:
        """The dealing of the node in a ceremony, cut into parts; `keys` are the members' group keys."""
        context = groups.compute_context(groups.compute_label(chain_id), ceremony.number, self._address)
        data = make_dealing(self.dealer_secret, ceremony.threshold, ceremony.members, keys, context)
        parts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
        return [PostDealing(ceremony.number, at, len(parts), part) for at, part in enumerate(parts)]

    def find_complaints(
        self, ceremony: Ceremony, records: Mapping[bytes, DealingRecord], chain_id: str
    ) -> list[PostComplaint]:
        """Complaints about every dealer whose shares for this node are wrong."""
        label = groups.compute_label(chain_id)
        found = []
        for dealer in self.find_bad_dealers(ceremony.number, ceremony.members, records, label):
            context = groups.compute_context(label, ceremony.number, dealer)
            complaint = prove_complaint(self._key, records[dealer].ephemeral, context)
            found.append(PostComplaint(ceremony.number, dealer, complaint.shared_point, complaint.proof))
        return found

    def find_bad_dealers(
        self, number: int, members: Members, records: Mapping[bytes, DealingRecord], label: bytes
    ) -> list[bytes]:
        """Dealers whose shares for this node do not fit what they committed to."""
        slots = groups.compute_slots(members, self._address)
        dealers = sorted(records)
        shares = [self._decrypt(records[dealer], slots, label, number, dealer) for dealer in dealers]
        bad = find_bad_dealings([records[dealer].commitments for dealer in dealers], slots, shares) if dealers else ()
        return [dealers[index] for index in bad]

    def _get_slot_secrets(self, state: State, group: Group) -> tuple[int, ...]:
        kept = self._slot_secrets.get(group.number)
        if kept is not None:
            return kept
        slots = group.get_slots(self._address)
        rows = [
            self._decrypt(record, slots, group.label, group.number, key[8:])
            for key, record in DEALINGS.items(state, group.number.to_bytes(8, "big"))
        ]
        secrets = tuple(compute_slot_secret(column) for column in zip(*rows, strict=True)) if slots else ()
        # Signing with what a bad dealer or a changed key left here would make this node guilty.
        if not verify_shares_batched([group.commitments], slots, [secrets]):
            secrets = ()
        self._slot_secrets[group.number] = secrets
        for number in sorted(self._slot_secrets)[:-KEPT_SECRETS]:
            del self._slot_secrets[number]
        return secrets

    def _decrypt(
        self, record: DealingRecord, slots: Sequence[int], label: bytes, number: int, dealer: bytes
    ) -> tuple[int, ...]:
        context = groups.compute_context(label, number, dealer)
        ciphertexts = [record.shares[slot] for slot in slots]
        return decrypt_shares(self._key, record.ephemeral, context, slots, ciphertexts)


def get_member_keys(state: State, ceremony: Ceremony) -> dict[bytes, bytes]:
    """Group keys of a running ceremony's members."""
    return {address: get_member_key(state, address) for address, _ in ceremony.members}


def get_open_dealings(state: State, ceremony: Ceremony) -> dict[bytes, DealingRecord]:
    """Dealings of a ceremony whose dealers nobody has convicted."""
    prefix = ceremony.number.to_bytes(8, "big")
    found = {key[len(prefix) :]: record for key, record in DEALINGS.items(state, prefix)}
    return {dealer: record for dealer, record in found.items() if GUILTY.get(state, dealer) is None}


def make_dealing(secret: bytes, threshold: int, members: Members, keys: Mapping[bytes, bytes], context: bytes) -> bytes:
    """A whole dealing, encoded."""
    recipients = [
        Recipient(address, keys[address], tuple(groups.compute_slots(members, address))) for address, _ in members
    ]
    dealing = deal(secret, threshold, recipients, context)
    return groups.encode_dealing(dealing, members)
