"""Reads the other chain on from where it stopped: final blocks that hold a deposit, each checked against its own hashes.

Several servers may be named; a block counts when all of them call it final and give it the same hash, and an event counts when
any of them tells it. It attests nothing. Invariant: every block in `pending` was final and checked when it was put there, and a
number is passed over only after all servers said that nothing of the contract is in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from paceline.base.errors import TransportError
from paceline.ledger.bridge import DEPOSIT_TOPIC, Header
from paceline.node.bridge.blocks import check_header, fetch_block
from paceline.node.bridge.rpc import EvmRpc, RpcRefused
from paceline.node.home import write_whole
from paceline.protocol.params import BridgeParams

LOG = logging.getLogger(__name__)
MAX_SPAN_BLOCKS = 1_000
"""Asked for at once; servers that refuse so many are asked for fewer."""
SPANS_A_LOOK = 20


class Pending(msgspec.Struct, frozen=True):
    """A final block that holds a deposit. Hex digits."""

    number: int
    block_hash: str
    receipts_root: str

    def get_header(self) -> Header:
        """As the ledger keeps it."""
        return Header(bytes.fromhex(self.block_hash), bytes.fromhex(self.receipts_root))


class Progress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is remembered over restarts: the next block to look at, the newest final one that was seen, what waits."""

    chain: int
    contract: str
    next: int
    final: int = -1
    final_hash: str = ""
    pending: list[Pending] = []


@dataclass(frozen=True)
class Final:
    """The newest block that all servers call final."""

    number: int
    block_hash: bytes


class Watcher:
    """One node's reading of the other chain. `servers`: the first gives blocks, all of them must agree."""

    def __init__(self, bridge: BridgeParams, servers: Sequence[EvmRpc], path: Path, start_block: int) -> None:
        assert servers
        self._bridge = bridge
        self._servers = servers
        self._path = path
        self._span = MAX_SPAN_BLOCKS
        self.progress = _load(path, bridge, start_block)

    async def look(self, stands: Callable[[int], bool]) -> bool:
        """Look at what became final since, as far as `pending` has room; True unless more can be looked at now.

        `stands`: whether the ledger needs no more of a block.

        Errors: TransportError when a server does not answer, lies in a way that shows, or the servers differ.
        """
        await asyncio.gather(*(server.require_chain(self._bridge.chain) for server in self._servers))
        final = await self._find_final()
        for _ in range(SPANS_A_LOOK):
            if self.progress.next > final.number or self._is_full():
                return True
            await self._look_at_span(min(final.number, self.progress.next + self._span - 1), stands)
        return self.progress.next > final.number or self._is_full()

    def forget(self, number: int) -> None:
        """Take a block off what waits."""
        self.progress.pending = [block for block in self.progress.pending if block.number != number]
        self._save()

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(server.close() for server in self._servers))

    async def _find_final(self) -> Final:
        blocks = await asyncio.gather(*(server.get_block("finalized") for server in self._servers))
        for server, block in zip(self._servers, blocks, strict=True):
            check_header(server.host, block)
        number = min(int(block.number, 16) for block in blocks)
        known = self.progress
        if known.final > number:
            raise TransportError(
                f"block {known.final} was final before, and the servers call {number} the last final one"
            )
        if known.final >= 0 and (await self._agree(known.final)).hex() != known.final_hash:
            raise TransportError(
                f"block {known.final} was final before and has another hash: this chain was turned back, or a server lies"
            )
        found = Final(number, await self._agree(number))
        if known.final != number:
            known.final, known.final_hash = number, found.block_hash.hex()
            self._save()
        return found

    async def _agree(self, number: int) -> bytes:
        """The one hash that all servers give a block. Errors: TransportError when they give several."""
        blocks = await asyncio.gather(*(server.get_block(number) for server in self._servers))
        pairs = zip(self._servers, blocks, strict=True)
        hashes = {check_header(server.host, block, number) for server, block in pairs}
        if len(hashes) > 1:
            raise TransportError(
                f"{', '.join(server.host for server in self._servers)} give block {number} several hashes"
            )
        return hashes.pop()

    async def _look_at_span(self, last: int, stands: Callable[[int], bool]) -> None:
        first = self.progress.next
        try:
            found = await asyncio.gather(
                *(server.find_logs(self._bridge.contract, DEPOSIT_TOPIC, first, last) for server in self._servers)
            )
        except RpcRefused:
            if first == last:
                raise
            self._span = max(1, (last - first + 1) // 2)
            return
        self._span = min(MAX_SPAN_BLOCKS, 2 * self._span)
        for number in sorted({number for numbers in found for number in numbers}):
            if self._is_full():
                return
            if not stands(number):
                await self._take(number)
        self.progress.next = last + 1
        self._save()

    async def _take(self, number: int) -> None:
        """Put a block to what waits, if its receipts do hold a deposit."""
        agreed = await self._agree(number)
        block = await fetch_block(self._servers[0], number)
        if block.block_hash != agreed:
            raise TransportError(f"{self._servers[0].host} gives block {number} another hash than a moment ago")
        if block.list_deposits(self._bridge.contract):
            self.progress.pending.append(Pending(number, agreed.hex(), block.receipts_root.hex()))
        else:
            LOG.warning("block %d of the other chain holds no deposit, though a server tells one", number)
        self.progress.next = number + 1
        self._save()

    def _is_full(self) -> bool:
        # More votes than may be open would push out this node's own oldest ones.
        return len(self.progress.pending) >= self._bridge.open_votes

    def _save(self) -> None:
        write_whole(self._path, msgspec.json.encode(self.progress))


def _load(path: Path, bridge: BridgeParams, start_block: int) -> Progress:
    """What a former run remembered, of this very bridge; else a beginning, which only reads again what was read."""
    fresh = Progress(chain=bridge.chain, contract=bridge.contract.hex(), next=start_block)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError:
        return fresh
    except (OSError, msgspec.DecodeError) as problem:
        LOG.warning("%s cannot be read (%s); the other chain is read again from block %d", path, problem, start_block)
        return fresh
    return found if (found.chain, found.contract) == (bridge.chain, bridge.contract.hex()) else fresh
