"""A node's view of the chain, whatever engine orders it: reads, waits for heights, sends transactions.

One runner applies blocks; everybody else reads committed state between two blocks on the same event loop, so a reader
never sees half a block. It knows nothing of how blocks are ordered; `solo_chain` and `comet_chain` do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.base.keys import AccountKey
from paceline.engine.inclusions import Included
from paceline.ledger.admission import compute_transaction_hash, signed_bytes
from paceline.ledger.application import Application, Result
from paceline.ledger.state import Event, State
from paceline.node.answers.load import IDLE, Load
from paceline.node.peers import Peers
from paceline.node.settings import NodeSettings
from paceline.protocol.codec import Record, encode
from paceline.protocol.messages import Message
from paceline.protocol.transactions import GrantedBody, Transaction, TransactionBody

LOG = logging.getLogger(__name__)
RETRY_SECONDS = 0.3
RESEND_SECONDS = 3.0
EXPIRY_BLOCKS = 400
KEPT_BLOCKS = 64
ALIVE_SECONDS = 4.0
STOPPING_SECONDS = 0.05
LINGER_SECONDS = 4.0
"""How long a node that must not go on still hands its last blocks and votes to others, who stop at that height too."""


class Standing(Record, frozen=True):
    """Where a node says it stands."""

    height: int
    app_hash: bytes
    fetched_bytes: int
    load: Load = IDLE


@dataclass(frozen=True)
class Sighting:
    """When another node was last heard of, and where it stood."""

    seconds: float
    height: int
    app_hash: bytes
    fetched_bytes: int
    load: Load = IDLE


@dataclass(frozen=True)
class BlockSummary:
    """A recent block, for people."""

    height: int
    app_hash: bytes
    transactions: int
    unix_milliseconds: int


class ChainService(ABC):
    """Runs the engine's side of a node and wakes whoever waits for the next height."""

    label: str
    """The engine in one honest line."""

    def __init__(self, settings: NodeSettings, application: Application, key: AccountKey, peers: Peers) -> None:
        self.application = application
        self.sightings: dict[bytes, Sighting] = {}
        self.recent: deque[BlockSummary] = deque(maxlen=KEPT_BLOCKS)
        self.measure_load: Callable[[], Load] = lambda: IDLE
        """What this node tells others of its load; set by the node that serves."""
        self._settings = settings
        self._key = key
        self._peers = peers
        self._moved = asyncio.Condition()
        self._stopping = False

    @property
    @abstractmethod
    def height(self) -> int:
        """Last committed height."""

    @property
    def snapshot_height(self) -> int:
        """Height of the newest snapshot that newcomers can start from, 0 when there is none."""
        return 0

    @abstractmethod
    async def run(self) -> None:
        """Order or follow blocks until cancelled; raises when this node cannot go on."""

    @abstractmethod
    async def accept_transaction(self, data: bytes) -> bytes:
        """Take a transaction for the next block; returns its hash.

        Errors: InvalidTransaction with its code; TransportError when it cannot be taken now.
        """

    @abstractmethod
    def get_included(self, transaction_hash: bytes) -> Included | None:
        """Height and result of a recently included transaction."""

    @abstractmethod
    def rush_to(self, height: int) -> None:
        """Get to a height as soon as the engine can."""

    async def serve_blocks(self, sender: bytes, body: bytes) -> list[bytes]:  # noqa: ARG002 - the solo engine uses them
        """Blocks for a follower. Errors: InvalidTransaction where the engine itself hands out blocks."""
        raise InvalidTransaction("no-blocks", f"{self._settings.name} does not hand out blocks; its engine does")

    @property
    def chain_id(self) -> str:
        """The network's chain id."""
        return self.application.chain_id

    def read(self) -> State:
        """Committed state."""
        return self.application.read()

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
        if self.height < height:
            # Who waits again and again must not keep the loop from ending it.
            await asyncio.sleep(STOPPING_SECONDS)
        return self.height >= height

    def note_standing(self, sender: bytes, standing: Standing) -> None:
        """Remember where a node of ours stands."""
        # What strangers say of themselves would fill memory and falsify sums.
        if self._peers.knows(sender):
            seen = Sighting(time.monotonic(), standing.height, standing.app_hash, standing.fetched_bytes, standing.load)
            self.sightings[sender] = seen

    def get_load(self, address: bytes) -> Load | None:
        """What a node said of its load a moment ago; None when it was not heard of."""
        sighting = self.sightings.get(address)
        return sighting.load if sighting is not None and is_alive(sighting) else None

    async def send(self, message: Message, *, key: AccountKey | None = None) -> tuple[bytes, Included]:
        """Sign a message, get it into a block, return its transaction hash with height and result.

        Errors: InvalidTransaction with the code of the rule it breaks; TransportError when it expired unseen.
        """
        expires_at = self.height + EXPIRY_BLOCKS
        data = sign_unordered(message, key or self._key, self.chain_id, expires_at)
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
                included = self.get_included(digest)
                if included is None and problem.code == "replayed":
                    await self.wait_height(self.height + 1, RESEND_SECONDS)
                    included = self.get_included(digest)
                if included is None:
                    raise
                return _require_ok(included)
            found = await self._wait_included(digest)
            if found is not None:
                return _require_ok(found)
        raise TransportError(f"transaction {digest.hex()[:16]} expired at height {expires_at} without a block")

    async def _wait_included(self, digest: bytes) -> Included | None:
        try:
            async with asyncio.timeout(RESEND_SECONDS), self._moved:
                while True:
                    found = self.get_included(digest)
                    if found is not None:
                        return found
                    await self._moved.wait()
        except TimeoutError:
            return None

    @abstractmethod
    async def _hand_over(self, data: bytes) -> None:
        """Pass a transaction on to whoever orders it."""

    async def _end_before_upgrade(self) -> None:
        """Return at once while this software can execute the next height; else let others catch up, and end.

        Errors: UpgradeNeeded.
        """
        if not self.application.can_go_on():
            LOG.warning("the next height needs an upgrade; ending in %.0f s", LINGER_SECONDS)
            await asyncio.sleep(LINGER_SECONDS)
            self.application.require_handlers()

    async def _wake(self, height: int, events: Sequence[Event]) -> None:
        for event in events:
            LOG.info("height %d: %s %s", height, event.kind, dict(event.attributes))
        async with self._moved:
            self._moved.notify_all()


def sign_unordered(
    message: Message, key: AccountKey, chain_id: str, expires_at: int, owner: bytes | None = None
) -> bytes:
    """A transaction that keeps no order with others of its key; with an owner, on that account's behalf."""
    if owner is None:
        body = encode(TransactionBody(chain_id=chain_id, sequence=None, expires_at=expires_at, message=message))
    else:
        body = encode(
            GrantedBody(chain_id=chain_id, sequence=None, expires_at=expires_at, message=message, owner=owner)
        )
    return encode(Transaction(body, key.public_key, key.sign(signed_bytes(body))))


def is_alive(sighting: Sighting | None) -> bool:
    """True when this node was heard of a moment ago."""
    return sighting is not None and time.monotonic() - sighting.seconds < ALIVE_SECONDS


def _require_ok(included: Included) -> Included:
    result: Result = included.result
    if result.code != "ok":
        raise InvalidTransaction(result.code, result.message)
    return included
