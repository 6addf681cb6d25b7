"""The seed of a Race: who has weight commits a contribution, reveals it, and only then the group signs the epoch.

While contributions can still be withheld nobody knows the signature, so withholding is a blind choice and gains nothing;
when the signature is known, nothing can be withheld any more.
Without the signature of the group in charge the other kept one signs; without that the contributions alone must do, when
more than two thirds of all weight revealed; without that there is no Race and the weights stay.
Source: seed 001, Appendix B; decisions 004 and 014.
"""

from __future__ import annotations

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.threshold import BLS_SCHEME, ThresholdScheme
from paceline.ledger import beacon, nodes
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import CommitSeed, PostPartials, RevealSeed
from paceline.protocol.params import NetworkParams

SIGNED, REVEALS_ONLY = "signed", "reveals-only"


class Contribution(Record, frozen=True):
    """One node's share in a seed: its commitment, then what stood behind it."""

    epoch: int
    digest: bytes
    revealed: bytes = b""


CONTRIBUTIONS: Table[Contribution] = Table("seeds/contribution", Contribution)
SIGNATURE: Table[bytes] = Table("seeds/signature", bytes)
CLOSED: Table[int] = Table("seeds/closed", int)
"""Height at which reveals were closed: the group in charge there signs."""


def begin(state: State) -> None:
    """Forget the last Race's contributions."""
    for address, _ in CONTRIBUTIONS.items(state):
        CONTRIBUTIONS.delete(state, address)
    SIGNATURE.delete(state, b"")
    CLOSED.delete(state, b"")


def hash_contribution(address: bytes, epoch: int, contribution: bytes) -> bytes:
    """The commitment to a contribution."""
    return hash_parts("seed-commitment", address, epoch.to_bytes(8, "big"), contribution)


def apply_commit(state: State, sender: bytes, message: CommitSeed) -> None:
    """A node with weight commits, once. The caller has seen that the window is open."""
    if sender not in nodes.get_weights(state):
        raise InvalidTransaction("no-weight", "only nodes with weight add to the seed")
    if CONTRIBUTIONS.get(state, sender) is not None:
        raise InvalidTransaction("already-committed", "one contribution a Race")
    CONTRIBUTIONS.put(state, sender, Contribution(message.epoch, message.digest))


def apply_reveal(state: State, sender: bytes, message: RevealSeed) -> None:
    """A node reveals what it committed. The caller has seen that the window is open."""
    found = CONTRIBUTIONS.get(state, sender)
    if found is None:
        raise InvalidTransaction("not-committed", "this node committed no contribution")
    if found.revealed:
        raise InvalidTransaction("already-revealed", "a contribution is revealed once")
    if hash_contribution(sender, message.epoch, message.contribution) != found.digest:
        raise InvalidTransaction("wrong-contribution", "it does not hash to the commitment")
    CONTRIBUTIONS.put(state, sender, Contribution(found.epoch, found.digest, message.contribution))


def apply_partials(
    state: State,
    chain_id: str,
    sender: bytes,
    message: PostPartials,
    *,
    late: bool,
    scheme: ThresholdScheme = BLS_SCHEME,
) -> None:
    """A member signs the epoch. The caller has seen that reveals are over; `late` lets the other kept group sign too."""
    if SIGNATURE.get(state) is not None:
        raise InvalidTransaction("already-signed", f"epoch {message.number} has its signature")
    signature = beacon.collect_partials(
        state,
        chain_id,
        sender,
        message,
        epoch=message.number,
        former_allowed=late,
        scheme=scheme,
        asked_at=CLOSED.get(state),
    )
    if signature is not None:
        SIGNATURE.put(state, b"", signature)


def have_all_committed(state: State) -> bool:
    """True when every node with weight has committed."""
    return all(CONTRIBUTIONS.get(state, address) is not None for address in nodes.get_weights(state))


def have_all_revealed(state: State) -> bool:
    """True when nothing committed is still hidden."""
    return all(found.revealed for _, found in CONTRIBUTIONS.items(state))


def close_reveals(state: State) -> None:
    """What stays hidden is left out, and costs its node a step of reputation. From now on the group may sign."""
    CLOSED.put(state, b"", state.height)
    for address, found in CONTRIBUTIONS.items(state):
        if found.revealed:
            continue
        node = nodes.NODES.get(state, address)
        assert node is not None
        nodes.update_node(state, address, reputation=max(0, node.reputation - 1))
        CONTRIBUTIONS.delete(state, address)
        state.emit("seed-withheld", node=address.hex())


def compute_seed(state: State, params: NetworkParams, epoch: int, waited_blocks: int) -> tuple[bytes, str] | None:
    """The seed and what it rests on; None while the group may still sign, or when nothing it could rest on is there."""
    revealed = [part for address, found in CONTRIBUTIONS.items(state) for part in (address, found.revealed)]
    signature = SIGNATURE.get(state)
    tag = epoch.to_bytes(8, "big")
    if signature is not None:
        return hash_parts("epoch-seed", tag, signature, *revealed), SIGNED
    if waited_blocks <= 2 * params.fallback_blocks:
        return None
    weights = nodes.get_weights(state)
    held = sum(weights.get(address, 0) for address, _ in CONTRIBUTIONS.items(state))
    if 3 * held <= 2 * sum(weights.values()):
        return None
    return hash_parts("epoch-seed-reveals-only", tag, *revealed), REVEALS_ONLY
