"""Committed signed transfers a second of four validators, beside CometBFT's own kvstore with transactions of the same size.

The networks run the same engine settings on this machine, one after the other, in turns; the load is handed to all four
engines over JSON-RPC. Also the block interval of each while it is loaded. kvstore lives inside the engine, so a third
network shows what the socket between engine and Application alone costs: its Application takes everything unseen.

    python bench/comet.py [--transactions 8000] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.engine.abci import schema
from paceline.engine.abci.adapter import AbciAdapter
from paceline.engine.abci.server import AbciServer
from paceline.engine.cometbft import EngineGenesis, EngineSettings, compute_node_id, find_binary, write_engine_folder
from paceline.ledger.admission import signed_bytes
from paceline.ledger.application import Application
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.founding import Founder, Founding, build_genesis
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import encode
from paceline.protocol.genesis import Genesis, GenesisAccount
from paceline.protocol.params import TINY
from paceline.store.state import SqliteStateStore

VALIDATORS = 4
BLOCK_SECONDS = 0.5
BATCH = 10
"""Most calls that an engine takes in one request."""
LOOPBACK = "127.0.0.1"
START_SECONDS = 60.0
OURS, UNSEEN, KVSTORE = "paceline", "unseen", "kvstore"
USER = AccountKey.from_secret(hash_parts("bench-user"))
KEYS = [AccountKey.from_secret(hash_parts("bench-node", bytes([number]))) for number in range(VALIDATORS)]
LINKS = [AccountKey.from_secret(hash_parts("bench-link", bytes([number]))) for number in range(VALIDATORS)]


@dataclass(frozen=True)
class Run:
    """One network under load."""

    per_second: float
    interval_seconds: float


def make_genesis() -> Genesis:
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
    accounts = (GenesisAccount(USER.address, 10**15),)
    return build_genesis(
        Founding(network="bench", params=TINY, founders=founders, accounts=accounts, bootstrap=bytes(32))
    )


def make_transfers(chain_id: str, count: int, salt: int) -> list[bytes]:
    made = []
    for number in range(count):
        to = hash_parts("bench-to", salt.to_bytes(4, "big"), number.to_bytes(4, "big"))[:20]
        body = encode(
            t.TransactionBody(chain_id=chain_id, sequence=None, expires_at=590, message=m.Transfer(to, 1 + number))
        )
        made.append(encode(t.Transaction(body, USER.public_key, USER.sign(signed_bytes(body)))))
    return made


def make_pairs(size: int, count: int, salt: int) -> list[bytes]:
    """Transactions of kvstore, `key=value` of the same size, all of them distinct."""
    made = []
    for number in range(count):
        head = f"k{salt}-{number}=".encode("ascii")
        made.append(head + (b"v" * (size - len(head))))
    return made


def serve(folder: Path, *, unseen: bool) -> None:
    """One Application behind its socket until stdin closes: what `--serve` and `--serve-unseen` run."""

    async def run() -> None:
        store = SqliteStateStore(folder / "chain.sqlite", durable=False)
        adapter = AbciAdapter(Application(make_genesis(), store), store, on_commit=lambda _committed: 0)
        handle = TakeUnseen(adapter).handle if unseen else adapter.handle
        server = AbciServer(folder / "abci.sock", handle)
        await server.start()
        await asyncio.to_thread(sys.stdin.buffer.read)
        await server.stop()
        store.close()

    asyncio.run(run())


class TakeUnseen:
    """Accepts every transaction without looking at it; all else is the real Application's."""

    def __init__(self, adapter: AbciAdapter) -> None:
        self._adapter = adapter

    def handle(self, verb: str, request: Any) -> Any:
        if verb == "check_tx":
            return schema.MESSAGES["ResponseCheckTx"]()
        if verb == "prepare_proposal":
            return schema.MESSAGES["ResponsePrepareProposal"](txs=list(request.txs))
        if verb == "process_proposal":
            return schema.MESSAGES["ResponseProcessProposal"](status=schema.PROPOSAL_ACCEPT)
        if verb != "finalize_block":
            return self._adapter.handle(verb, request)
        count = len(request.txs)
        del request.txs[:]
        response = self._adapter.handle(verb, request)
        response.tx_results.extend(schema.MESSAGES["ExecTxResult"]() for _ in range(count))
        return response


@contextlib.contextmanager
def run_network(path: Path, kind: str) -> Iterator[list[int]]:
    """Four engines; gives their RPC ports."""
    ports = take_ports(2 * VALIDATORS)
    genesis = EngineGenesis(
        chain_id=Application(make_genesis(), SqliteStateStore(path / "id.sqlite", durable=False)).chain_id,
        validators=[(key.public_key, 1_000) for key in KEYS],
    )
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(VALIDATORS):
            folder = path / f"node-{number}"
            engine = EngineSettings(
                folder=folder / "engine",
                moniker=f"node-{number}",
                socket=folder / "abci.sock",
                rpc=f"{LOOPBACK}:{ports[number]}",
                p2p=f"{LOOPBACK}:{ports[VALIDATORS + number]}",
                peers=tuple(
                    f"{compute_node_id(LINKS[other])}@{LOOPBACK}:{ports[VALIDATORS + other]}"
                    for other in range(number + 1, VALIDATORS)
                ),
                block_seconds=BLOCK_SECONDS,
            )
            write_engine_folder(engine, genesis, KEYS[number], LINKS[number])
            if kind != KVSTORE:
                option = "--serve" if kind == OURS else "--serve-unseen"
                processes.append(start([sys.executable, __file__, option, str(folder)]))
            else:
                config = engine.folder / "config" / "config.toml"
                config.write_text(re.sub(r'proxy_app = "[^"]*"', 'proxy_app = "kvstore"', config.read_text()))
            processes.append(start([str(find_binary()), "start", "--home", str(engine.folder)]))
        wait_height(ports[:VALIDATORS], 2)
        yield ports[:VALIDATORS]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            assert process.stdin is not None
            process.stdin.close()


def start(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "GOMAXPROCS": "2"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )


def measure(ports: list[int], transactions: list[bytes]) -> Run:
    """Hand everything over in batches, round the validators; count blocks until all of it is committed."""
    first = wait_height(ports, 1)
    began = time.perf_counter()
    with httpx.Client(timeout=60.0, trust_env=False) as client:
        for at in range(0, len(transactions), BATCH):
            port = ports[at // BATCH % len(ports)]
            calls = [
                {
                    "jsonrpc": "2.0",
                    "id": number,
                    "method": "broadcast_tx_async",
                    "params": {"tx": base64.b64encode(data).decode("ascii")},
                }
                for number, data in enumerate(transactions[at : at + BATCH])
            ]
            client.post(f"http://{LOOPBACK}:{port}", json=calls).raise_for_status()
        committed, height = 0, first
        while committed < len(transactions):
            height = wait_height(ports[:1], height + 1, exactly=True)
            committed += count_transactions(client, ports[0], height)
    seconds = time.perf_counter() - began
    return Run(len(transactions) / seconds, seconds / max(1, height - first))


def count_transactions(client: httpx.Client, port: int, height: int) -> int:
    found = client.get(f"http://{LOOPBACK}:{port}/block?height={height}").json()
    return len(found["result"]["block"]["data"]["txs"] or ())


def wait_height(ports: list[int], height: int, *, exactly: bool = False) -> int:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                heights = [
                    int(
                        client.get(f"http://{LOOPBACK}:{port}/status").json()["result"]["sync_info"][
                            "latest_block_height"
                        ]
                    )
                    for port in ports
                ]
            except (httpx.HTTPError, ValueError, KeyError):
                heights = [-1]
            if min(heights) >= height:
                return height if exactly else min(heights)
            time.sleep(0.02)
    raise SystemExit(f"height {height} was not reached within {START_SECONDS:.0f} s")


def take_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind((LOOPBACK, 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transactions", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--serve-unseen", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None or options.serve_unseen is not None:
        serve(options.serve or options.serve_unseen, unseen=options.serve is None)
        return 0
    runs: dict[str, list[Run]] = {OURS: [], UNSEEN: [], KVSTORE: []}
    size = 0
    for salt in range(options.rounds):
        for kind, measured in runs.items():
            with tempfile.TemporaryDirectory() as folder, run_network(Path(folder), kind) as ports:
                chain_id = httpx.get(f"http://{LOOPBACK}:{ports[0]}/status", trust_env=False).json()
                transfers = make_transfers(chain_id["result"]["node_info"]["network"], options.transactions, salt)
                size = len(transfers[0])
                load = make_pairs(size, options.transactions, salt) if kind == KVSTORE else transfers
                measured.append(measure(ports, load))
    figures: dict[str, float] = {"transaction_bytes": size}
    for kind, measured in runs.items():
        pairs = zip(measured, runs[KVSTORE], strict=True)
        figures[f"{kind}_per_second"] = round(statistics.median(run.per_second for run in measured))
        figures[f"{kind}_block_interval_seconds"] = round(statistics.median(r.interval_seconds for r in measured), 2)
        figures[f"{kind}_of_kvstore"] = round(statistics.median(a.per_second / b.per_second for a, b in pairs), 2)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:28} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
