"""The chain under the embedded engine: this node orders blocks, or follows the one that does.

A replica that meets a block it cannot follow stops the node instead of guessing.
"""

from __future__ import annotations

import asyncio
import logging
import time

from paceline.base.errors import ConfigError, InvalidTransaction, TransportError
from paceline.base.keys import AccountKey
from paceline.engine.blocks import decode_block
from paceline.engine.inclusions import Included
from paceline.engine.solo import LABEL, Replica, Sequencer
from paceline.ledger.application import BlockResult
from paceline.network.client import PeerRefused
from paceline.node.answers.load import IDLE, Load
from paceline.node.chains.chain import KEPT_BLOCKS, RETRY_SECONDS, BlockSummary, ChainService, Standing
from paceline.node.peers import Peers
from paceline.node.settings import NodeSettings
from paceline.protocol.codec import Record, decode, encode

LOG = logging.getLogger(__name__)
MAX_BATCH_BYTES = 8 * 1024 * 1024
MAX_BATCH_BLOCKS = 200
POLL_SECONDS = 1.0
PRUNED = "pruned"
"""Code of a refusal that asking again cannot mend: the reply names the first height held."""


class BlocksRequest(Record, frozen=True):
    """A follower asks for blocks from a height on and says where it stands."""

    first: int
    app_hash: bytes
    fetched_bytes: int
    load: Load = IDLE


class SoloChain(ChainService):
    """Runs a Sequencer or a Replica."""

    label = LABEL

    def __init__(self, settings: NodeSettings, replica: Replica, key: AccountKey, peers: Peers) -> None:
        super().__init__(settings, replica.application, key, peers)
        self.replica = replica
        self._wanted = asyncio.Event()
        self._rush_to = 0
        self._fill_recent()

    @property
    def height(self) -> int:
        """Last committed height."""
        return self.replica.height

    async def run(self) -> None:
        """Order or follow blocks until cancelled.

        Errors: InvalidBlock when this node cannot follow, UpgradeNeeded when it must not, ConfigError when the sequencer has
        forgotten the blocks that it lacks; the node stops then.
        """
        self.application.require_handlers()
        if isinstance(self.replica, Sequencer):
            await self._order(self.replica)
        else:
            await self._follow()

    def get_included(self, transaction_hash: bytes) -> Included | None:
        """Height and result of a recently included transaction."""
        return self.replica.get_included(transaction_hash)

    def rush_to(self, height: int) -> None:
        """Sequencer: order blocks without pause up to a height. Pauses are the operator's choice, heights are not."""
        self._rush_to = height
        self._wanted.set()

    async def accept_transaction(self, data: bytes) -> bytes:
        """Sequencer: take a transaction for the next block; returns its hash.

        Errors: InvalidTransaction with its code.
        """
        if not isinstance(self.replica, Sequencer):
            raise InvalidTransaction("not-the-sequencer", f"{self._settings.sequencer} orders blocks")
        digest = self.replica.add_transaction(data)
        if self.replica.is_hurried:
            self._wanted.set()
        return digest

    async def serve_blocks(self, sender: bytes, body: bytes) -> list[bytes]:
        """Blocks for a follower, after a short wait when there is none yet; remembers where a node of ours stands.

        Errors: InvalidTransaction pruned, naming the first height that is held.
        """
        request = decode(BlocksRequest, body, limit_bytes=256)
        self.note_standing(sender, Standing(request.first - 1, request.app_hash, request.fetched_bytes, request.load))
        async with self._moved:
            self._moved.notify_all()
        held = self.replica.first_block_height
        if request.first < held:
            raise InvalidTransaction(
                PRUNED, f"{self._settings.name} holds blocks from height {held} on, not height {request.first}"
            )
        await self.wait_height(request.first, POLL_SECONDS)
        return self.replica.get_blocks(request.first, MAX_BATCH_BLOCKS, MAX_BATCH_BYTES)

    async def _hand_over(self, data: bytes) -> None:
        if isinstance(self.replica, Sequencer):
            await self.accept_transaction(data)
        else:
            await self._peers.request(self._settings.sequencer, "transaction", data)

    async def _order(self, sequencer: Sequencer) -> None:
        if sequencer.height == 0:
            await self._wait_for_everybody()
        while True:
            await self._pause(sequencer)
            self._wanted.clear()
            data, result = sequencer.produce_block(time.time_ns() // 1_000_000)
            await self._announce(data, result)

    async def _pause(self, sequencer: Sequencer) -> None:
        if sequencer.height < self._rush_to:
            await asyncio.sleep(0)
            return
        await asyncio.sleep(self._settings.block_seconds)
        if sequencer.is_hurried or sequencer.application.is_waiting():
            return
        rest = self._settings.idle_seconds - self._settings.block_seconds
        try:
            async with asyncio.timeout(rest):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def _wait_for_everybody(self) -> None:
        others = {peer.address for peer in self._peers.all() if peer.name != self._settings.name}
        try:
            async with asyncio.timeout(self._settings.rendezvous_seconds), self._moved:
                while not others <= self.sightings.keys():
                    await self._moved.wait()
        except TimeoutError:
            LOG.warning("not every node showed up; the chain begins without them")

    async def _follow(self) -> None:
        while True:
            app_hash = self.replica.application.info().app_hash
            request = encode(BlocksRequest(self.height + 1, app_hash, self._peers.fetched_bytes, self.measure_load()))
            try:
                batch = await self._peers.request_many(self._settings.sequencer, "blocks", request)
            except TransportError as problem:
                if isinstance(problem, PeerRefused) and problem.code == PRUNED:
                    raise ConfigError(
                        f"{problem.message}, and this node is at height {self.height}: copy the store of a newer node"
                    ) from None
                LOG.info("sequencer not reached (%s), trying again", problem)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for data in batch:
                result = self.replica.apply_block(data)
                await self._announce(data, result)

    async def _announce(self, data: bytes, result: BlockResult) -> None:
        self._remember(data)
        await self._wake(result.height, result.events)
        await self._end_before_upgrade()
        # Whoever was woken gets the loop before the next block.
        await asyncio.sleep(0)

    def _remember(self, data: bytes) -> None:
        block = decode_block(data)
        self.recent.append(BlockSummary(block.height, block.app_hash, len(block.transactions), block.unix_milliseconds))

    def _fill_recent(self) -> None:
        first = max(1, self.height - KEPT_BLOCKS + 1)
        for data in self.replica.get_blocks(first, KEPT_BLOCKS, MAX_BATCH_BYTES) if self.height else []:
            self._remember(data)
