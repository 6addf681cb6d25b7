"""How long a machine without state needs until it follows four validators whose state has so many keys.

The newcomer takes a snapshot over from its peers' engines, chunk by chunk, verifies it against a header that the validators
signed, installs it and catches up. Its engine listens for snapshots for five seconds before it takes the newest.

    python bench/state_sync.py [--keys 100000] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from comet import KEYS, LINKS, LOOPBACK, USER, VALIDATORS, start, take_ports, wait_height

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.engine.abci.adapter import AbciAdapter, Committed
from paceline.engine.abci.server import AbciServer
from paceline.engine.cometbft import (
    EngineGenesis,
    EngineSettings,
    StateSync,
    compute_node_id,
    find_binary,
    write_engine_folder,
)
from paceline.ledger.application import Application
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.founding import Founder, Founding, build_genesis
from paceline.node.chains.snapshots import NodeSnapshots
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.genesis import Genesis, GenesisAccount
from paceline.protocol.params import TINY
from paceline.store.state import SqliteStateStore

SNAPSHOT_BLOCKS = 10
BLOCK_SECONDS = 0.5
DISCOVERY_SECONDS = 5.0
SYNC_SECONDS = 300.0


def make_genesis(keys: int) -> Genesis:
    """A genesis whose state holds about so many keys, nearly all of them accounts."""
    founders = [
        Founder(
            name=f"node-{number}",
            key=key,
            consensus_key=key.public_key,
            ceremony_key=CeremonyKey(key.address, key.secret),
            weight=1_000,
            serves=("model",),
        )
        for number, key in enumerate(KEYS)
    ]
    accounts = [GenesisAccount(hash_parts("bench-account", n.to_bytes(4, "big"))[:20], 1_000) for n in range(keys)]
    accounts.append(GenesisAccount(USER.address, 10**15))
    return build_genesis(
        Founding(network="bench", params=TINY, founders=founders, accounts=tuple(accounts), bootstrap=bytes(32))
    )


def serve(folder: Path, genesis: Path) -> None:
    """One Application with its snapshots until stdin closes: what `--serve` runs."""
    known = decode_own(Genesis, genesis.read_bytes())

    async def run() -> None:
        store = SqliteStateStore(folder / "chain.sqlite", durable=False)
        application = Application(known, store)
        snapshots = NodeSnapshots(store, folder / "snapshots", SNAPSHOT_BLOCKS)

        def note(committed: Committed) -> int:
            snapshots.on_commit(committed.result.height)
            return 0

        server = AbciServer(
            folder / "abci.sock", AbciAdapter(application, store, on_commit=note, snapshots=snapshots).handle
        )
        await server.start()
        await asyncio.to_thread(sys.stdin.buffer.read)
        await server.stop()
        store.close()

    asyncio.run(run())


class Machines:
    """Processes on this machine, each an engine with its Application."""

    def __init__(self, path: Path, genesis: Path, chain_id: str) -> None:
        self._path = path
        self._genesis_path = genesis
        self._genesis = EngineGenesis(chain_id=chain_id, validators=[(key.public_key, 1_000) for key in KEYS])
        ports = take_ports(2 * (VALIDATORS + 1))
        self.rpc, self._links = ports[: VALIDATORS + 1], ports[VALIDATORS + 1 :]
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, number: int, key: AccountKey, link: AccountKey, state_sync: StateSync | None = None) -> None:
        folder = self._path / f"node-{number}"
        ids = [compute_node_id(other) for other in LINKS]
        engine = EngineSettings(
            folder=folder / "engine",
            moniker=f"node-{number}",
            socket=folder / "abci.sock",
            rpc=f"{LOOPBACK}:{self.rpc[number]}",
            p2p=f"{LOOPBACK}:{self._links[number]}",
            peers=tuple(f"{ids[n]}@{LOOPBACK}:{self._links[n]}" for n in range(VALIDATORS) if n != number),
            block_seconds=BLOCK_SECONDS,
            state_sync=state_sync,
        )
        write_engine_folder(engine, self._genesis, key, link)
        command = [sys.executable, __file__, "--serve", str(folder), "--genesis", str(self._genesis_path)]
        self._processes.append(start(command))
        self._processes.append(start([str(find_binary()), "start", "--home", str(engine.folder)]))

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            assert process.stdin is not None
            process.stdin.close()


@contextlib.contextmanager
def run_validators(keys: int) -> Iterator[Machines]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        genesis = make_genesis(keys)
        (path / "genesis").write_bytes(encode(genesis))
        chain_id = Application(genesis, SqliteStateStore(path / "id.sqlite", durable=False)).chain_id
        machines = Machines(path, path / "genesis", chain_id)
        try:
            for number, (key, link) in enumerate(zip(KEYS, LINKS, strict=True)):
                machines.start(number, key, link)
            wait_height(machines.rpc[:VALIDATORS], 2 * SNAPSHOT_BLOCKS + 3)
            yield machines
        finally:
            machines.stop()


def measure(machines: Machines) -> float:
    """Seconds from the start of a machine without state until it is where the others are."""
    url = f"http://{LOOPBACK}:{machines.rpc[0]}"
    trusted = httpx.get(f"{url}/block?height={SNAPSHOT_BLOCKS}", trust_env=False).json()["result"]["block_id"]["hash"]
    sync = StateSync(rpc_servers=(f"{LOOPBACK}:{machines.rpc[0]}",), trust_height=SNAPSHOT_BLOCKS, trust_hash=trusted)
    secret = AccountKey.from_secret(hash_parts("bench-newcomer"))
    began = time.perf_counter()
    machines.start(VALIDATORS, secret, secret, sync)
    while time.perf_counter() - began < SYNC_SECONDS:
        found = ask_sync(machines.rpc[VALIDATORS])
        if found is not None and not found["catching_up"] and int(found["latest_block_height"]) > 0:
            assert int(found["earliest_block_height"]) > 1, "it replayed the chain instead of taking a state over"
            return time.perf_counter() - began
        time.sleep(0.05)
    raise SystemExit(f"no state within {SYNC_SECONDS:.0f} s")


def ask_sync(port: int) -> dict[str, str] | None:
    try:
        reply = httpx.get(f"http://{LOOPBACK}:{port}/status", timeout=2.0, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return None
    found: dict[str, str] = reply["result"]["sync_info"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--genesis", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.genesis)
        return 0
    seconds = []
    for _ in range(options.rounds):
        with run_validators(options.keys) as machines:
            seconds.append(measure(machines))
    figures = {
        "keys": options.keys,
        "seconds": round(statistics.median(seconds), 1),
        "seconds_without_discovery": round(statistics.median(seconds) - DISCOVERY_SECONDS, 1),
    }
    print(json.dumps(figures) if options.json else "\n".join(f"{name:28} {value}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
