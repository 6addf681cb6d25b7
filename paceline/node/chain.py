"""A node's view of the chain: it orders blocks or follows them, tells others when the height moved, sends transactions.

One runner applies blocks; everybody else reads committed state between two blocks on the same event loop, so a reader
never sees half a block. A replica that meets a block it cannot follow stops the node instead of guessing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.base.keys import AccountKey
from paceline.engine.blocks import decode_block
from paceline.engine.solo import Included, Replica, Sequencer
from paceline.ledger.admission import compute_transaction_hash, signed_bytes
from paceline.ledger.application import BlockResult, Result
from paceline.ledger.state import State
from paceline.node.peers import Peers
from paceline.node.settings import NodeSettings
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.messages import Message, Transaction, TransactionBody

LOG = logging.getLogger(__name__)
MAX_BATCH_BYTES = 8 * 1024 * 1024
MAX_BATCH_BLOCKS = 200
POLL_SECONDS = 1.0
RETRY_SECONDS = 0.3
RESEND_SECONDS = 3.0
EXPIRY_BLOCKS = 400
KEPT_BLOCKS = 64
ALIVE_SECONDS = 4.0


class BlocksRequest(Record, frozen=True):
    """A follower asks for blocks from a height on and says where it stands."""

    first: int
    app_hash: bytes
    fetched_bytes: int


@dataclass(frozen=True)
class Sighting:
    """When another node was last heard of, and where it stood."""

    seconds: float
    height: int
    app_hash: bytes
    fetched_bytes: int


@dataclass(frozen=True)
class BlockSummary:
    """A recent block, for people."""

    height: int
    app_hash: bytes
    transactions: int
    unix_milliseconds: int


class ChainService:
    """Runs a Sequencer or a Replica and wakes whoever waits for the next height."""

    def __init__(self, settings: NodeSettings, replica: Replica, key: AccountKey, peers: Peers) -> None:
        self.replica = replica
        self.sightings: dict[bytes, Sighting] = {}
        self.recent: deque[BlockSummary] = deque(maxlen=KEPT_BLOCKS)
        self._settings = settings
        self._key = key
        self._peers = peers
        self._moved = asyncio.Condition()
        self._wanted = asyncio.Event()
        self._rush_to = 0
        self._stopping = False
        self._fill_recent()

    @property
    def height(self) -> int:
        """Last committed height."""
        return self.replica.height

    @property
    def chain_id(self) -> str:
        """The network's chain id."""
        return self.replica.application.chain_id

    def read(self) -> State:
        """Committed state."""
        return self.replica.application.read()

    async def run(self) -> None:
        """Order or follow blocks until cancelled.

        Errors: InvalidBlock when this node cannot follow; the node stops then.
        """
        if isinstance(self.replica, Sequencer):
            await self._order(self.replica)
        else:
            await self._follow()

    async def watch(self) -> AsyncGenerator[int, None]:
        """Yield the height whenever it moved (joined when the reader is slow), until the node stops."""
        seen = -1
        while not self._stopping:
            async with self._moved:
                while self.height == seen and not self._stopping:
                    await self._moved.wait()
            seen = self.height
            yield seen

    async def stop(self) -> None:
        """Let go of everybody who waits for a height, so that open replies can end in order."""
        self._stopping = True
        async with self._moved:
            self._moved.notify_all()

    async def wait_height(self, height: int, timeout_seconds: float) -> bool:
        """True once the height is reached, False when the time is over."""
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                while self.height < height and not self._stopping:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return self.height >= height

    def rush_to(self, height: int) -> None:
        """Sequencer: order blocks without pause up to a height. Pauses are the operator's choice, heights are not."""
        self._rush_to = height
        self._wanted.set()

    def accept_transaction(self, data: bytes) -> bytes:
        """Sequencer: take a transaction for the next block; returns its hash.

        Errors: InvalidTransaction with its code.
        """
        if not isinstance(self.replica, Sequencer):
            raise InvalidTransaction("not-the-sequencer", f"{self._settings.sequencer} orders blocks")
        digest = self.replica.add_transaction(data)
        self._wanted.set()
        return digest

    async def serve_blocks(self, sender: bytes, body: bytes) -> list[bytes]:
        """Blocks for a follower, after a short wait when there is none yet; remembers where a node of ours stands."""
        request = decode(BlocksRequest, body, limit_bytes=256)
        # Anybody may read along, but what strangers say of themselves would fill memory and falsify sums.
        if self._peers.knows(sender):
            seen = Sighting(time.monotonic(), request.first - 1, request.app_hash, request.fetched_bytes)
            self.sightings[sender] = seen
            async with self._moved:
                self._moved.notify_all()
        await self.wait_height(request.first, POLL_SECONDS)
        return self.replica.get_blocks(request.first, MAX_BATCH_BLOCKS, MAX_BATCH_BYTES)

    async def send(self, message: Message, *, key: AccountKey | None = None) -> tuple[bytes, Included]:
        """Sign a message, get it into a block, return its transaction hash with height and result.

        Errors: InvalidTransaction with the code of the rule it breaks; TransportError when it expired unseen.
        """
        signer = key or self._key
        expires_at = self.height + EXPIRY_BLOCKS
        body = encode(TransactionBody(chain_id=self.chain_id, sequence=None, expires_at=expires_at, message=message))
        data = encode(Transaction(body, signer.public_key, signer.sign(signed_bytes(body))))
        return compute_transaction_hash(data), await self.send_signed(data, expires_at)

    async def send_signed(self, data: bytes, expires_at: int) -> Included:
        """Get signed bytes into a block; sent again until they are there, which is safe because they run once."""
        digest = compute_transaction_hash(data)
        while self.height <= expires_at:
            try:
                await self._hand_over(data)
            except TransportError:
                await asyncio.sleep(RETRY_SECONDS)
            except InvalidTransaction as problem:
                included = self.replica.get_included(digest)
                if included is None and problem.code == "replayed":
                    await self.wait_height(self.height + 1, RESEND_SECONDS)
                    included = self.replica.get_included(digest)
                if included is None:
                    raise
                return _require_ok(included)
            found = await self._wait_included(digest)
            if found is not None:
                return _require_ok(found)
        raise TransportError(f"transaction {digest.hex()[:16]} expired at height {expires_at} without a block")

    async def _hand_over(self, data: bytes) -> None:
        if isinstance(self.replica, Sequencer):
            self.accept_transaction(data)
        else:
            await self._peers.request(self._settings.sequencer, "transaction", data)

    async def _wait_included(self, digest: bytes) -> Included | None:
        try:
            async with asyncio.timeout(RESEND_SECONDS), self._moved:
                while True:
                    found = self.replica.get_included(digest)
                    if found is not None:
                        return found
                    await self._moved.wait()
        except TimeoutError:
            return None

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
        if sequencer.waiting or sequencer.application.is_waiting():
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
            request = encode(BlocksRequest(self.height + 1, app_hash, self._peers.fetched_bytes))
            try:
                batch = await self._peers.request_many(self._settings.sequencer, "blocks", request)
            except TransportError as problem:
                LOG.info("sequencer not reached (%s), trying again", problem)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for data in batch:
                result = self.replica.apply_block(data)
                await self._announce(data, result)

    async def _announce(self, data: bytes, result: BlockResult) -> None:
        self._remember(data)
        for event in result.events:
            LOG.info("height %d: %s %s", result.height, event.kind, dict(event.attributes))
        async with self._moved:
            self._moved.notify_all()
        # Whoever was woken gets the loop before the next block.
        await asyncio.sleep(0)

    def _remember(self, data: bytes) -> None:
        block = decode_block(data)
        self.recent.append(BlockSummary(block.height, block.app_hash, len(block.transactions), block.unix_milliseconds))

    def _fill_recent(self) -> None:
        first = max(1, self.height - KEPT_BLOCKS + 1)
        for data in self.replica.get_blocks(first, KEPT_BLOCKS, MAX_BATCH_BYTES) if self.height else []:
            self._remember(data)


def is_alive(sighting: Sighting | None) -> bool:
    """True when this node was heard of a moment ago."""
    return sighting is not None and time.monotonic() - sighting.seconds < ALIVE_SECONDS


def _require_ok(included: Included) -> Included:
    result: Result = included.result
    if result.code != "ok":
        raise InvalidTransaction(result.code, result.message)
    return included
