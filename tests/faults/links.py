"""TCP relays between engines, one a link, that a test can cut and mend."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

READ_BYTES = 65_536
LOOPBACK = "127.0.0.1"


class Links:
    """Relays on a thread of their own. A cut link drops what flows and refuses what is dialled."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._cut: set[frozenset[int]] = set()
        self._flows: dict[frozenset[int], set[asyncio.StreamWriter]] = {}
        self._servers: list[asyncio.Server] = []

    def open(self, ends: frozenset[int], target_port: int) -> int:
        """A relay to a port; returns where to dial."""
        return asyncio.run_coroutine_threadsafe(self._open(ends, target_port), self._loop).result(10)

    def cut(self, is_cut: Callable[[int, int], bool]) -> None:
        """Cut every link between two nodes for which `is_cut` is true, mend every other."""

        def apply() -> None:
            self._cut = {ends for ends in self._flows if is_cut(*sorted(ends))}
            for ends in self._cut:
                for writer in self._flows[ends]:
                    writer.transport.abort()

        self._loop.call_soon_threadsafe(apply)

    def heal(self) -> None:
        """Mend every link."""
        self.cut(lambda _a, _b: False)

    def close(self) -> None:
        """End all relays."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            for writers in self._flows.values():
                for writer in list(writers):
                    writer.transport.abort()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            await asyncio.wait(tasks, timeout=2) if tasks else None

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _open(self, ends: frozenset[int], target_port: int) -> int:
        self._flows.setdefault(ends, set())

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._relay(ends, target_port, reader, writer)

        server = await asyncio.start_server(serve, LOOPBACK, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _relay(
        self, ends: frozenset[int], target_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writers = [writer]
        try:
            if ends in self._cut:
                return
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, target_port)
            writers.append(far_writer)
            self._flows[ends].update(writers)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        except OSError:
            return
        finally:
            for each in writers:
                self._flows[ends].discard(each)
                each.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()
