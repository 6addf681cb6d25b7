"""Snapshots between this node's store and its engine: takes them as heights pass, serves them, and restores from them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.base.errors import WorkError
from paceline.engine.abci import schema
from paceline.protocol.codec import encode
from paceline.store.snapshots import (
    FORMAT,
    InvalidSnapshot,
    SnapshotFolder,
    SnapshotInfo,
    SnapshotRestorer,
    decode_info,
)
from paceline.store.state import SqliteStateStore

LOG = logging.getLogger(__name__)


class NodeSnapshots:
    """One node's snapshots. `every_blocks` 0 takes none."""

    def __init__(self, store: SqliteStateStore, folder: Path, every_blocks: int) -> None:
        self._store = store
        self._every_blocks = every_blocks
        self._folder = SnapshotFolder(folder / "kept")
        self._incoming = folder / "incoming"
        self._restorer: SnapshotRestorer | None = None
        self._taking: asyncio.Task[SnapshotInfo] | None = None

    def on_commit(self, height: int) -> None:
        """Take a snapshot when one is due and the last one is written. The state is copied here, written on a thread."""
        if not self._every_blocks or height % self._every_blocks:
            return
        if self._taking is not None and not self._taking.done():
            LOG.warning("height %d: no snapshot, the last one is still being written", height)
            return
        pairs = list(self._store.iterate(b""))
        work = asyncio.to_thread(self._folder.take, height, self._store.app_hash, pairs)
        self._taking = asyncio.create_task(work)

    def list_snapshots(self) -> Sequence[Any]:
        """What this node can serve, as `schema.Snapshot`."""
        return [
            schema.Snapshot(
                height=info.height,
                format=info.format,
                chunks=len(info.chunks),
                hash=info.compute_hash(),
                metadata=encode(info),
            )
            for info in self._folder.list_infos()
        ]

    def load_chunk(self, height: int, form: int, chunk: int) -> bytes:
        """One chunk; empty when it is not here."""
        return self._folder.load_chunk(height, chunk) if form == FORMAT else b""

    def offer(self, snapshot: Any, app_hash: bytes) -> int:
        """Accept a snapshot whose description is sound and of the state that the validators signed."""
        if snapshot.format != FORMAT:
            return schema.OFFER_REJECT_FORMAT
        try:
            info = decode_info(snapshot.metadata)
            self._restorer = SnapshotRestorer(info, app_hash, self._incoming)
        except InvalidSnapshot as problem:
            LOG.warning("snapshot at height %d refused: %s", snapshot.height, problem)
            return schema.OFFER_REJECT
        if (info.height, len(info.chunks), info.compute_hash()) != (snapshot.height, snapshot.chunks, snapshot.hash):
            LOG.warning("snapshot at height %d refused: its description is of another one", snapshot.height)
            self._restorer = None
            return schema.OFFER_REJECT
        return schema.OFFER_ACCEPT

    def apply_chunk(self, index: int, chunk: bytes) -> int:
        """Keep a chunk that is right; the last one installs the state."""
        if self._restorer is None:
            return schema.CHUNK_ABORT
        try:
            complete = self._restorer.add_chunk(index, chunk)
        except InvalidSnapshot as problem:
            LOG.warning("chunk %d refused: %s", index, problem)
            return schema.CHUNK_RETRY
        if not complete:
            return schema.CHUNK_ACCEPT
        try:
            self._restorer.install(self._store)
        except (InvalidSnapshot, WorkError) as problem:
            LOG.warning("the snapshot is worthless: %s", problem)
            self._restorer.discard()
            return schema.CHUNK_REJECT_SNAPSHOT
        finally:
            self._restorer = None
        LOG.info("state of height %d restored", self._store.height)
        return schema.CHUNK_ACCEPT
