"""Takes part in the beacon: commits a hash chain, reveals one link per round.

Chains come from the node's own key, the epoch and an attempt number, so a restarted node finds its place again without
having stored anything.
"""

from __future__ import annotations

from functools import lru_cache

from paceline.base.hashing import hash_parts
from paceline.ledger import beacon, clock, nodes, race
from paceline.ledger.state import State
from paceline.node.context import Context
from paceline.protocol.messages import CommitChain, RevealLink

ATTEMPTS = 64
"""Chains a node may need in one epoch; each exclusion or used-up chain takes the next."""


class BeaconRole:
    """Commit and reveal when due."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        context = self._context
        if context.address not in nodes.get_weights(state):
            return
        epoch = clock.compute_epoch(context.params, state.height + 1)
        chain = beacon.CHAINS.get(state, context.address)
        opened = beacon.OPEN.get(state)
        owes = opened is not None and chain is not None and beacon.counts_in(chain, opened)
        if owes and beacon.REVEALS.get(state, context.address) is None:
            assert opened is not None
            assert chain is not None
            index, link = opened.index, self._find_link(chain.epoch, chain.link)
            if link is not None:
                context.duties.start(("reveal", index), lambda: self._reveal(index, link))
        elif self._is_commit_due(state, epoch, chain):
            context.duties.start(("commit", epoch), lambda: self._commit(epoch, chain))

    def _is_commit_due(self, state: State, epoch: int, chain: beacon.Chain | None) -> bool:
        current = race.get_race(state)
        if current is None or current.epoch != epoch:
            return False
        if chain is None or chain.epoch != epoch or chain.left == 0:
            return True
        return 0 < chain.excluded_until <= state.height

    async def _commit(self, epoch: int, former: beacon.Chain | None) -> None:
        attempt = 0
        if former is not None and former.epoch == epoch:
            attempt = 1 + (self._find_attempt(epoch, former.link) or 0)
        tip = _build_links(self._context.key.secret, epoch, attempt, self._context.params.chain_links)[0]
        await self._context.chain.send(CommitChain(epoch, tip))

    async def _reveal(self, index: int, link: bytes) -> None:
        await self._context.chain.send(RevealLink(index, link))

    def _find_attempt(self, epoch: int, link: bytes) -> int | None:
        count = self._context.params.chain_links
        for attempt in range(ATTEMPTS):
            if link in _build_links(self._context.key.secret, epoch, attempt, count):
                return attempt
        return None

    def _find_link(self, epoch: int, link: bytes) -> bytes | None:
        attempt = self._find_attempt(epoch, link)
        if attempt is None:
            return None
        links = _build_links(self._context.key.secret, epoch, attempt, self._context.params.chain_links)
        return links[links.index(link) + 1]


@lru_cache(maxsize=8)
def _build_links(secret: bytes, epoch: int, attempt: int, count: int) -> list[bytes]:
    """Links from the public tip (first) to the innermost secret (last)."""
    start = hash_parts("beacon-chain", secret, epoch.to_bytes(8, "big"), attempt.to_bytes(4, "big"))
    links = [start]
    for _ in range(count):
        links.append(beacon.hash_link(links[-1]))
    links.reverse()
    return links
