"""The chain under CometBFT: this node's Application serves its engine over a socket, the engine agrees with the others.

The engine is a child of this process: when either ends, so does the other, and both start again from what is on disk.
A restored state is looked at by others only after the engine has found it to be the one that the validators signed.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from paceline.base.errors import InvalidTransaction, TransportError
from paceline.base.keys import AccountKey
from paceline.engine.abci.adapter import AbciAdapter, Committed, ProvingStore, decode_note
from paceline.engine.abci.server import AbciServer
from paceline.engine.cometbft import LABEL, EngineProcess, EngineSettings
from paceline.engine.inclusions import Included, Inclusions
from paceline.engine.rpc import EngineRpc
from paceline.ledger.admission import compute_transaction_hash
from paceline.ledger.application import Application
from paceline.node.chains.chain import BlockSummary, ChainService, Standing
from paceline.node.chains.snapshots import NodeSnapshots
from paceline.node.peers import Peers
from paceline.node.settings import NodeSettings
from paceline.protocol.codec import encode

TELL_SECONDS = 1.0
TOLD_PEERS = 8
PRUNE_BLOCKS = 100


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What one node's engine needs: its settings, a way to start it, snapshots, and when it may forget blocks."""

    settings: EngineSettings
    process: EngineProcess
    snapshots: NodeSnapshots
    keep_blocks: int = 0
    """How many blocks engine and store keep; 0 keeps all."""


class CometChain(ChainService):
    """Serves the engine beside this node."""

    label = LABEL

    def __init__(
        self,
        settings: NodeSettings,
        application: Application,
        store: ProvingStore,
        key: AccountKey,
        peers: Peers,
        engine: Engine,
    ) -> None:
        super().__init__(settings, application, key, peers)
        self._store = store
        self._engine = engine
        self._rpc = EngineRpc(engine.settings.rpc)
        self._included = Inclusions()
        self._committed: asyncio.Queue[Committed] = asyncio.Queue()
        self._fill_recent()

    @property
    def height(self) -> int:
        """Last committed height."""
        return self._store.height

    @property
    def snapshot_height(self) -> int:
        """Height of the newest snapshot that newcomers can start from, 0 when there is none."""
        return max((snapshot.height for snapshot in self._engine.snapshots.list_snapshots()), default=0)

    @property
    def engine_pid(self) -> int | None:
        """Process id of the engine while it runs."""
        return self._engine.process.pid

    async def run(self) -> None:
        """Serve the engine until cancelled.

        Errors: ConfigError when the engine ends, UpgradeNeeded when this software must not go on; whatever broke
        inside the Application.
        """
        self.application.require_handlers()
        adapter = AbciAdapter(
            self.application, self._store, on_commit=self._on_commit, snapshots=self._engine.snapshots
        )
        server = AbciServer(self._engine.settings.socket, adapter.handle)
        await server.start()
        runners: list[asyncio.Future[None]] = [
            asyncio.create_task(self._engine.process.run()),
            asyncio.create_task(self._announce()),
            asyncio.create_task(self._tell_standing()),
            server.failure,
        ]
        try:
            done, _ = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
            # The engine ends because our handler failed: that is the error to show.
            (server.failure if server.failure.done() else done.pop()).result()
        finally:
            await self._engine.process.stop()
            for runner in runners:
                runner.cancel()
            await asyncio.gather(*runners, return_exceptions=True)
            await server.stop()
            await self._rpc.close()

    async def accept_transaction(self, data: bytes) -> bytes:
        """Hand a transaction to the engine; returns its hash.

        Errors: InvalidTransaction with its code; TransportError when the engine cannot take it now.
        """
        await self._rpc.broadcast(data)
        return compute_transaction_hash(data)

    def get_included(self, transaction_hash: bytes) -> Included | None:
        """Height and result of a recently included transaction."""
        return self._included.get(transaction_hash)

    def rush_to(self, height: int) -> None:
        """Nothing to do: more than two thirds of the power set the pace, no single node does."""

    async def _hand_over(self, data: bytes) -> None:
        await self.accept_transaction(data)

    def _on_commit(self, committed: Committed) -> int:
        # Runs inside the engine's Commit: nobody may be waited for here.
        result = committed.result
        self._included.record(committed.transactions, result)
        self.recent.append(
            BlockSummary(result.height, result.app_hash, len(committed.transactions), committed.unix_milliseconds)
        )
        self._committed.put_nowait(committed)
        self._engine.snapshots.on_commit(result.height)
        keep = self._engine.keep_blocks
        if not keep or result.height <= keep:
            return 0
        if result.height % PRUNE_BLOCKS == 0:
            self._store.prune(result.height - keep + 1)
        return result.height - keep + 1

    async def _announce(self) -> None:
        while True:
            committed = await self._committed.get()
            await self._wake(committed.result.height, committed.result.events)
            await self._end_before_upgrade()

    async def _tell_standing(self) -> None:
        """Let others see where this node stands; nothing but displays rests on it."""
        while True:
            others = [peer for peer in self._peers.all() if peer.address != self._key.address]
            standing = encode(
                Standing(self.height, self._store.app_hash, self._peers.fetched_bytes, self.measure_load())
            )
            told = random.sample(others, min(TOLD_PEERS, len(others)))
            await asyncio.gather(*(self._tell(peer.name, standing) for peer in told))
            await asyncio.sleep(TELL_SECONDS)

    async def _tell(self, name: str, standing: bytes) -> None:
        try:
            await self._peers.request(name, "standing", standing)
        except (TransportError, InvalidTransaction):
            # Whoever does not want to hear of it cannot stop this node.
            return

    def _fill_recent(self) -> None:
        note = self._store.get_block(self.height)
        if note is not None:
            milliseconds, transactions = decode_note(note)
            self.recent.append(BlockSummary(self.height, self._store.app_hash, transactions, milliseconds))
