"""Randomness that nobody can choose alone: commit, then reveal with a deadline.

Every node locks the end of a hash chain when an epoch opens. Each round everybody reveals one link; the value hashes
the former value with all revealed links, sorted by address. A round opens only when something asked for chance, and
whatever must not be known before a commitment is drawn from a round that opens after it.

Power: a value needs links of more than half of the committed weight. Whoever withholds its link to choose between two
values is left out of the following rounds; n nodes that collude choose once among up to 2**n values and are then all
left out. A threshold signature in place of the links would remove this.
Source: seed 001, Appendix B (commit–reveal with timed reveal, weighted by the previous Race).
"""

from __future__ import annotations

from paceline.base.draws import derive_seed
from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger.nodes import NODES, get_weights
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import CommitChain, RevealLink
from paceline.protocol.params import NetworkParams

KEPT_ROUNDS = 256


class Chain(Record, frozen=True):
    """A node's committed chain: the last public link, how many are left, until when it is left out."""

    epoch: int
    link: bytes
    left: int
    excluded_until: int = 0
    joins_at: int = 0
    """First round that counts this chain; a chain never enters a round that was open when it was committed."""


class OpenRound(Record, frozen=True):
    """A round that waits for reveals."""

    index: int
    deadline: int


class RoundValue(Record, frozen=True):
    """A finished round."""

    value: bytes
    height: int
    revealers: int


CHAINS: Table[Chain] = Table("beacon/chain", Chain)
REVEALS: Table[bytes] = Table("beacon/reveal", bytes)
OPEN: Table[OpenRound] = Table("beacon/open", OpenRound)
VALUES: Table[RoundValue] = Table("beacon/value", RoundValue)
NEXT: Table[int] = Table("beacon/next", int)
WANTED: Table[int] = Table("beacon/wanted", int)


def apply_genesis(state: State, bootstrap: bytes) -> None:
    """Round 0 is the bootstrap value of genesis."""
    VALUES.put(state, _key(0), RoundValue(bootstrap, 0, 0))
    NEXT.put(state, b"", 1)


def hash_link(link: bytes) -> bytes:
    """The public link that a secret link stands behind."""
    return hash_parts("beacon-link", link)


def request_round(state: State) -> int:
    """Ask for chance; returns the index of the first round whose reveals nobody has seen yet."""
    index = get_next_index(state)
    WANTED.put(state, b"", index)
    return index


def get_next_index(state: State) -> int:
    """Index of the next round to open."""
    return NEXT.get(state) or 1


def get_value(state: State, index: int) -> bytes | None:
    """Value of a finished round that is still kept, else None."""
    found = VALUES.get(state, _key(index))
    return None if found is None else found.value


def derive_at(state: State, index: int, purpose: str, *parts: bytes) -> bytes | None:
    """A seed for one purpose from a round's value, None while the round is not finished."""
    value = get_value(state, index)
    return None if value is None else derive_seed(value, purpose, *parts)


def is_committed(state: State, address: bytes, epoch: int) -> bool:
    """True when a node has a usable chain for the epoch."""
    chain = CHAINS.get(state, address)
    return chain is not None and chain.epoch == epoch and chain.left > 0 and chain.excluded_until == 0


def counts_in(chain: Chain, opened: OpenRound) -> bool:
    """True when an open round waits for this chain."""
    return chain.joins_at <= opened.index and chain.excluded_until == 0 and chain.left > 0


def apply_commit(state: State, params: NetworkParams, sender: bytes, message: CommitChain, epoch: int) -> None:
    """A node locks a new chain: once per epoch, when its chain is used up, or after its exclusion."""
    if NODES.get(state, sender) is None:
        raise InvalidTransaction("not-a-node", "only nodes commit to the beacon")
    if message.epoch != epoch:
        raise InvalidTransaction("wrong-epoch", f"epoch {message.epoch} is named, {epoch} is running")
    former = CHAINS.get(state, sender)
    if former is not None:
        if state.height < former.excluded_until:
            raise InvalidTransaction("excluded", f"left out of the beacon until height {former.excluded_until}")
        if former.epoch == epoch and former.left > 0 and former.excluded_until == 0:
            raise InvalidTransaction("already-committed", "this epoch's chain still has links")
        opened = OPEN.get(state)
        if opened is not None and counts_in(former, opened) and REVEALS.get(state, sender) is None:
            raise InvalidTransaction("reveal-first", "an open round still waits for this node's link")
    chain = Chain(epoch, message.tip, params.chain_links, joins_at=get_next_index(state))
    CHAINS.put(state, sender, chain)


def apply_reveal(state: State, sender: bytes, message: RevealLink) -> None:
    """A node reveals the link behind its committed one for the open round."""
    opened = OPEN.get(state)
    if opened is None or opened.index != message.round_index:
        raise InvalidTransaction("round-not-open", f"round {message.round_index} does not wait for reveals")
    chain = CHAINS.get(state, sender)
    # Without weight there is nothing to lose by withholding, so such a node must not add to the value either.
    if chain is None or not counts_in(chain, opened) or sender not in get_weights(state):
        raise InvalidTransaction("not-committed", "no chain of this node counts in this round")
    if REVEALS.get(state, sender) is not None:
        raise InvalidTransaction("already-revealed", "one link per round")
    if hash_link(message.link) != chain.link:
        raise InvalidTransaction("wrong-link", "the link does not hash to the committed one")
    CHAINS.put(state, sender, Chain(chain.epoch, message.link, chain.left - 1, 0, chain.joins_at))
    REVEALS.put(state, sender, message.link)


def end_block(state: State, params: NetworkParams) -> None:
    """Finish the open round when everybody revealed or the deadline passed; open the next one when asked for."""
    opened = OPEN.get(state)
    if opened is not None:
        _try_to_finish(state, params, opened)
    elif WANTED.get(state) is not None and _has_chains(state):
        index = get_next_index(state)
        OPEN.put(state, b"", OpenRound(index, state.height + params.reveal_blocks))
        NEXT.put(state, b"", index + 1)
        if (WANTED.get(state) or 0) <= index:
            WANTED.delete(state, b"")
        state.emit("beacon-open", round=index)


def _has_chains(state: State) -> bool:
    weights = get_weights(state)
    ready = [a for a, c in CHAINS.items(state) if c.left > 0 and c.excluded_until == 0 and a in weights]
    return bool(ready)


def _try_to_finish(state: State, params: NetworkParams, opened: OpenRound) -> None:
    weights = get_weights(state)
    expected = {a: weights.get(a, 0) for a, c in CHAINS.items(state) if counts_in(c, opened) and a in weights}
    reveals = dict(REVEALS.items(state))
    missing = [address for address in expected if address not in reveals]
    if missing and state.height < opened.deadline:
        return
    revealed = sum(weight for address, weight in expected.items() if address in reveals)
    if not reveals or 2 * revealed <= sum(expected.values()):
        OPEN.put(state, b"", OpenRound(opened.index, state.height + params.reveal_blocks))
        state.emit("beacon-waits", round=opened.index, revealed=revealed, committed=sum(expected.values()))
        return
    for address in missing:
        chain = CHAINS.get(state, address)
        assert chain is not None
        until = state.height + params.exclusion_blocks
        CHAINS.put(state, address, Chain(chain.epoch, chain.link, chain.left, until, chain.joins_at))
        state.emit("beacon-withheld", round=opened.index, node=address.hex())
    former = get_value(state, opened.index - 1)
    assert former is not None
    links = [part for address in sorted(reveals) for part in (address, reveals[address])]
    value = hash_parts("beacon-value", former, opened.index.to_bytes(8, "big"), *links)
    VALUES.put(state, _key(opened.index), RoundValue(value, state.height, len(reveals)))
    if opened.index >= KEPT_ROUNDS:
        VALUES.delete(state, _key(opened.index - KEPT_ROUNDS))
    for address in reveals:
        REVEALS.delete(state, address)
    OPEN.delete(state, b"")
    state.emit("beacon-value", round=opened.index, revealers=len(reveals))


def _key(index: int) -> bytes:
    return index.to_bytes(8, "big")
