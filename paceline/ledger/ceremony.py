"""The ceremony that makes the next group: deal, complain, add up. By transactions, in heights, beside everything else.

It begins when a Race has set new weights. A dealer whose share is wrong is convicted by the ledger itself: the victim
lays open the point it shares with the dealer, and the ledger decrypts and tests the very share. Too few sound dealers,
or a committee that cannot keep its bounds, and the former group goes on.
Invariant: a group is installed only when sound dealers own more than half of its slots, so one of them is honest
while less than a third of all weight lies.
Source: seed 001, Appendix B; decisions 013 and 014.
"""

from __future__ import annotations

import msgspec

from paceline.base.dealing import Complaint
from paceline.base.errors import InvalidTransaction
from paceline.base.threshold import BLS_SCHEME, ThresholdScheme
from paceline.economy.committee import Committee, choose_committee
from paceline.ledger import beacon, groups, nodes
from paceline.ledger.groups import DEALINGS
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import PostComplaint, PostDealing
from paceline.protocol.params import NetworkParams

DRAW, DEAL, COMPLAIN, ADD, DONE = "draw", "deal", "complain", "add", "done"
MAX_PARTS = 4


class Ceremony(Record, frozen=True, kw_only=True):
    """Where the ceremony for group `number` stands. `deadline` is the last height of the phase."""

    number: int
    epoch: int
    phase: str
    deadline: int
    draw_index: int
    members: tuple[tuple[bytes, int], ...] = ()
    slots: int = 0
    threshold: int = 0
    secrecy_ppm: int = 0
    liveness_ppm: int = 0
    drawn: bool = False
    added: tuple[bytes, ...] = ()
    """Dealers whose dealings are in the sum."""


CEREMONY: Table[Ceremony] = Table("ceremony/state", Ceremony)
PARTS: Table[bytes] = Table("ceremony/part", bytes)
GUILTY: Table[int] = Table("ceremony/guilty", int)
KEYS: Table[bytes] = Table("ceremony/key", bytes)
"""Group keys of the members as they were when the committee was drawn."""
SUM: Table[tuple[bytes, ...]] = Table("ceremony/sum", tuple[bytes, ...])


def get_ceremony(state: State) -> Ceremony | None:
    """The running ceremony, or the last one."""
    return CEREMONY.get(state)


def begin(state: State, epoch: int) -> None:
    """Start the ceremony for the next group; its committee is drawn from a value that nobody knows yet."""
    former = CEREMONY.get(state)
    number = groups.get_current(state).number + 1
    if former is not None:
        _forget(state, former.number, keep_dealings=former.number < number)
    index = beacon.compute_next_index(state)
    # While a value is waited for, the deadline says since when.
    waiting = Ceremony(number=number, epoch=epoch, phase=DRAW, deadline=state.height, draw_index=index)
    CEREMONY.put(state, b"", waiting)
    state.emit("ceremony-waits", group=number, index=index)


def get_member_key(state: State, address: bytes) -> bytes:
    """The key that shares for a member of the running ceremony are encrypted to."""
    key = KEYS.get(state, address)
    assert key is not None, "the draw writes the key of each member"
    return key


def apply_dealing(
    state: State, chain_id: str, sender: bytes, message: PostDealing, scheme: ThresholdScheme = BLS_SCHEME
) -> None:
    """One part of a member's dealing; with the last part it is checked as a whole.

    Errors: InvalidTransaction wrong-phase, not-a-member, already-dealt, bad-part, and those of the dealing itself.
    """
    ceremony = _expect(state, message.number, DEAL)
    _expect_member(ceremony, sender)
    if DEALINGS.get(state, groups.dealing_key(ceremony.number, sender)) is not None:
        raise InvalidTransaction("already-dealt", "a member deals once")
    if not message.part < message.parts <= MAX_PARTS:
        raise InvalidTransaction("bad-part", f"part {message.part} of {message.parts}, at most {MAX_PARTS} are allowed")
    key = groups.dealing_key(ceremony.number, sender)
    PARTS.put(state, key + bytes([message.part]), message.data)
    found = [PARTS.get(state, key + bytes([part])) for part in range(message.parts)]
    if any(part is None for part in found):
        return
    record = groups.decode_dealing(b"".join(part or b"" for part in found), ceremony.threshold, ceremony.slots)
    context = groups.compute_context(groups.compute_label(chain_id), ceremony.number, sender)
    groups.check_dealing(record, context, scheme)
    for part in range(MAX_PARTS):
        PARTS.delete(state, key + bytes([part]))
    DEALINGS.put(state, key, record)
    state.emit("ceremony-dealt", group=ceremony.number, node=sender.hex())


def apply_complaint(
    state: State, chain_id: str, sender: bytes, message: PostComplaint, scheme: ThresholdScheme = BLS_SCHEME
) -> None:
    """A member shows that a dealer's share for it is wrong; the ledger looks for itself.

    Errors: InvalidTransaction wrong-phase, not-a-member, no-dealing, already-guilty, false-proof, unfounded.
    """
    ceremony = _expect(state, message.number, COMPLAIN)
    _expect_member(ceremony, sender)
    record = DEALINGS.get(state, groups.dealing_key(ceremony.number, message.dealer))
    if record is None:
        raise InvalidTransaction("no-dealing", "this node dealt nothing")
    if GUILTY.get(state, message.dealer) is not None:
        raise InvalidTransaction("already-guilty", "this dealer is out already")
    context = groups.compute_context(groups.compute_label(chain_id), ceremony.number, message.dealer)
    complaint = Complaint(message.shared_point, message.proof)
    if not scheme.verify_complaint(get_member_key(state, sender), record.ephemeral, context, complaint):
        raise InvalidTransaction("false-proof", "the opened point is not the one shared with the dealer")
    slots = groups.compute_slots(ceremony.members, sender)
    ciphertexts = record.shares[slots.start : slots.stop]
    if scheme.judge_shares(record.commitments, ciphertexts, message.shared_point, context, slots):
        raise InvalidTransaction("unfounded", "every share of this dealer for this member is right")
    _convict(state, ceremony, message.dealer, "a share that does not fit its commitments")


def end_block(state: State, params: NetworkParams, chain_id: str, scheme: ThresholdScheme = BLS_SCHEME) -> None:
    """Move to the next phase when its time has come."""
    ceremony = CEREMONY.get(state)
    if ceremony is None or ceremony.phase == DONE:
        return
    over = state.height >= ceremony.deadline
    if ceremony.phase == DRAW:
        _draw(state, params, ceremony)
    elif ceremony.phase == DEAL and (over or _have_all_dealt(state, ceremony)):
        _enter(state, ceremony, COMPLAIN, state.height + params.complain_blocks)
    elif ceremony.phase == COMPLAIN and over:
        _judge_dealers(state, ceremony)
    elif ceremony.phase == ADD:
        _add(state, params, chain_id, ceremony, scheme)


def _draw(state: State, params: NetworkParams, ceremony: Ceremony) -> None:
    seed = beacon.derive_at(state, ceremony.draw_index, "committee", ceremony.number.to_bytes(8, "big"))
    if seed is None and state.height <= ceremony.deadline + 2 * params.fallback_blocks:
        return
    try:
        committee = choose_committee(nodes.get_weights(state), seed or b"", slots_per_member=params.slots_per_member)
    except InvalidTransaction as problem:
        _fail(state, ceremony, problem.message)
        return
    # The heaviest need no chance, so they can replace a group that signs no more; a draw without chance is none.
    if seed is None and committee.drawn:
        _fail(state, ceremony, f"no value {ceremony.draw_index} to draw a committee from")
        return
    for address, _ in committee.members:
        KEYS.put(state, address, nodes.get_group_key(state, address, ceremony.epoch))
    _enter(state, _seat(ceremony, committee), DEAL, state.height + params.deal_blocks)
    state.emit(
        "ceremony-begins",
        group=ceremony.number,
        members=len(committee.members),
        slots=committee.slots,
        threshold=committee.threshold,
        secrecy_ppm=committee.secrecy_ppm,
        liveness_ppm=committee.liveness_ppm,
    )


def _seat(ceremony: Ceremony, committee: Committee) -> Ceremony:
    return msgspec.structs.replace(
        ceremony,
        members=committee.members,
        slots=committee.slots,
        threshold=committee.threshold,
        secrecy_ppm=committee.secrecy_ppm,
        liveness_ppm=committee.liveness_ppm,
        drawn=committee.drawn,
    )


def _judge_dealers(state: State, ceremony: Ceremony) -> None:
    """Whoever dealt nothing is left out and loses a step of reputation; the sound ones must own over half the slots."""
    sound = 0
    for address, slots in ceremony.members:
        if DEALINGS.get(state, groups.dealing_key(ceremony.number, address)) is None:
            node = nodes.NODES.get(state, address)
            assert node is not None
            nodes.update_node(state, address, reputation=max(0, node.reputation - 1))
            state.emit("ceremony-silent", group=ceremony.number, node=address.hex())
        elif GUILTY.get(state, address) is None:
            sound += slots
    if 2 * sound <= ceremony.slots:
        _fail(state, ceremony, f"sound dealers own {sound} of {ceremony.slots} slots")
        return
    _enter(state, ceremony, ADD, 0)


def _add(state: State, params: NetworkParams, chain_id: str, ceremony: Ceremony, scheme: ThresholdScheme) -> None:
    """A few dealings a block, so that no block stalls; the last one completes the group."""
    total = SUM.get(state)
    added = list(ceremony.added)
    left = [address for address in _list_sound(state, ceremony) if address not in ceremony.added]
    for address in left[: params.dealings_per_block]:
        record = DEALINGS.get(state, groups.dealing_key(ceremony.number, address))
        assert record is not None
        try:
            total = scheme.aggregate(total, record.commitments)
        except InvalidTransaction:
            # Dealers who together take the sum back to nothing: this one is left out.
            _convict(state, ceremony, address, "a dealing that cancels the others")
            continue
        added.append(address)
    if len(left) > params.dealings_per_block:
        assert total is not None
        SUM.put(state, b"", total)
        CEREMONY.put(state, b"", msgspec.structs.replace(ceremony, added=tuple(added)))
        return
    assert total is not None
    _install(state, chain_id, msgspec.structs.replace(ceremony, added=tuple(added)), total)


def _install(state: State, chain_id: str, ceremony: Ceremony, total: tuple[bytes, ...]) -> None:
    for address, _ in ceremony.members:
        if address not in ceremony.added:
            DEALINGS.delete(state, groups.dealing_key(ceremony.number, address))
    committee = Committee(
        members=ceremony.members,
        slots=ceremony.slots,
        threshold=ceremony.threshold,
        secrecy_ppm=ceremony.secrecy_ppm,
        liveness_ppm=ceremony.liveness_ppm,
        drawn=ceremony.drawn,
    )
    label = groups.compute_label(chain_id)
    groups.install(state, groups.make_group(committee, ceremony.number, total, label, state.height + 1))
    _forget(state, ceremony.number, keep_dealings=True)
    CEREMONY.put(state, b"", msgspec.structs.replace(ceremony, phase=DONE, deadline=0))
    state.emit("ceremony-done", group=ceremony.number, dealers=len(ceremony.added))


def _fail(state: State, ceremony: Ceremony, reason: str) -> None:
    _forget(state, ceremony.number, keep_dealings=False)
    CEREMONY.put(state, b"", msgspec.structs.replace(ceremony, phase=DONE, deadline=0))
    state.emit("ceremony-failed", group=ceremony.number, reason=reason)


def _forget(state: State, number: int, *, keep_dealings: bool) -> None:
    for key, _ in PARTS.items(state):
        PARTS.delete(state, key)
    for key, _ in GUILTY.items(state):
        GUILTY.delete(state, key)
    for key, _ in KEYS.items(state):
        KEYS.delete(state, key)
    SUM.delete(state, b"")
    if not keep_dealings:
        groups.forget_dealings(state, number)


def _convict(state: State, ceremony: Ceremony, dealer: bytes, reason: str) -> None:
    GUILTY.put(state, dealer, state.height)
    nodes.update_node(state, dealer, guilty=ceremony.epoch, reputation=0)
    state.emit("ceremony-guilty", group=ceremony.number, node=dealer.hex(), reason=reason)


def _list_sound(state: State, ceremony: Ceremony) -> list[bytes]:
    return [
        address
        for address, _ in ceremony.members
        if GUILTY.get(state, address) is None
        and DEALINGS.get(state, groups.dealing_key(ceremony.number, address)) is not None
    ]


def _have_all_dealt(state: State, ceremony: Ceremony) -> bool:
    return all(
        DEALINGS.get(state, groups.dealing_key(ceremony.number, address)) is not None for address, _ in ceremony.members
    )


def _expect(state: State, number: int, phase: str) -> Ceremony:
    ceremony = CEREMONY.get(state)
    if ceremony is None or ceremony.number != number or ceremony.phase != phase:
        now = f"{ceremony.phase} of group {ceremony.number}" if ceremony is not None else "none"
        raise InvalidTransaction("wrong-phase", f"this needs {phase} of group {number}, the ceremony is in {now}")
    return ceremony


def _expect_member(ceremony: Ceremony, sender: bytes) -> None:
    if not groups.compute_slots(ceremony.members, sender):
        raise InvalidTransaction("not-a-member", "this node has no slot in the ceremony")


def _enter(state: State, ceremony: Ceremony, phase: str, deadline: int) -> None:
    CEREMONY.put(state, b"", msgspec.structs.replace(ceremony, phase=phase, deadline=deadline))
