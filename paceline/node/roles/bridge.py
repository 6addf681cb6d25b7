"""Attests headers of the bridge's other chain: final blocks that hold a deposit, once each, as long as the ledger wants it.

Reading is the watcher's; here is when to look, and what to say. It attests nothing that the watcher did not check, and never
pushes out its own older votes. After a look that failed it says nothing until one goes well: the chain may have been turned
back. Servers that fail are asked again, ever more rarely.
"""

from __future__ import annotations

import logging
import time

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.ledger.bridge import HEADERS, VOTES
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State
from paceline.node.bridge.watcher import Pending, Watcher
from paceline.node.context import Context
from paceline.protocol.bridge import AttestHeader

LOG = logging.getLogger(__name__)
MAX_WAIT_SECONDS = 300.0


class BridgeRole:
    """Look and attest when due."""

    def __init__(self, context: Context, watcher: Watcher, poll_seconds: float) -> None:
        self.watcher = watcher
        self.trouble = "nobody was asked yet"
        """Why nothing is attested now; empty after a look that went well."""
        self._context = context
        self._poll_seconds = self._wait_seconds = poll_seconds
        self._not_before = 0.0

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        node = NODES.get(state, self._context.address)
        if node is None or node.voting_power == 0:
            return
        if time.monotonic() >= self._not_before:
            self._context.duties.start("bridge-look", self._look)
        for block in tuple(self.watcher.progress.pending):
            self._attest(state, block)

    async def close(self) -> None:
        """Let go of the servers."""
        await self.watcher.close()

    async def _look(self) -> None:
        try:
            done = await self.watcher.look(self._stands)
        except TransportError as problem:
            self.trouble = str(problem)
            self._not_before = time.monotonic() + self._wait_seconds
            LOG.warning("the other chain: %s; asking again in %.0f s", problem, self._wait_seconds)
            self._wait_seconds = min(2 * self._wait_seconds, MAX_WAIT_SECONDS)
            return
        self.trouble = ""
        self._wait_seconds = self._poll_seconds
        self._not_before = time.monotonic() + (self._poll_seconds if done else 0.0)

    def _stands(self, number: int) -> bool:
        return HEADERS.get(self._context.chain.read(), number.to_bytes(8, "big")) is not None

    def _attest(self, state: State, block: Pending) -> None:
        key, header = block.number.to_bytes(8, "big"), block.get_header()
        standing = HEADERS.get(state, key)
        if standing is not None:
            if standing != header:
                # Either side may be the one that was lied to; the operator has to find out.
                LOG.error(
                    "block %d of the other chain stands on the ledger as another than this node saw", block.number
                )
            self.watcher.forget(block.number)
        elif not self.trouble and VOTES.get(state, key + self._context.address) != header:
            self._context.duties.start(("attest", block.number), lambda: self._post(block))

    async def _post(self, block: Pending) -> None:
        header = block.get_header()
        message = AttestHeader(self._context.params.bridge.chain, block.number, header.block_hash, header.receipts_root)
        try:
            await self._context.chain.send(message)
        except InvalidTransaction as refused:
            if refused.code != "already-attested":
                raise
