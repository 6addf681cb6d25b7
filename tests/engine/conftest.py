"""An Application behind its ABCI server on a socket, and the history of a small network to feed it."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))

from paceline.engine.abci.adapter import AbciAdapter
from paceline.engine.abci.server import AbciServer
from paceline.engine.driver import Driver
from paceline.ledger.application import Application
from paceline.store.state import MemoryStateStore


class Served:
    """One Application on one socket; `restart` forgets nothing but the connections, `crash` whatever is not committed."""

    def __init__(self, genesis, path, make_application=Application):
        self.genesis = genesis
        self.path = path
        self.store = MemoryStateStore()
        self.commits = []
        self.retain_height = 0
        self._make = make_application
        self.application = make_application(genesis, self.store)
        self.server = None

    async def start(self, **options):
        adapter = AbciAdapter(self.application, self.store, on_commit=self._on_commit)
        self.server = AbciServer(self.path, adapter.handle, **options)
        await self.server.start()

    async def stop(self):
        await self.server.stop()

    async def crash(self):
        await self.server.stop()
        self.application = self._make(self.genesis, self.store)
        await self.start()

    def driver(self, log=None):
        return Driver(self.path, self.application.chain_id, dict(self.application.get_validators()), log)

    def _on_commit(self, committed):
        self.commits.append(committed)
        return self.retain_height


@pytest.fixture
def play(tmp_path):
    """Run a coroutine function with an Application that is served."""

    def run(genesis, scenario, **options):
        async def main():
            async with serve(genesis, tmp_path / "abci.sock", **options) as served:
                await scenario(served)

        # The loop that nodes run on: its transports differ from asyncio's own.
        uvloop.run(main())

    return run


@asynccontextmanager
async def serve(genesis, path, make_application=Application, **options):
    served = Served(genesis, path, make_application)
    await served.start(**options)
    try:
        yield served
    finally:
        await served.stop()
