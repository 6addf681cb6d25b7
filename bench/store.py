"""What the store and the peer network cost: `python bench/store.py`.

Prints one line per figure: microseconds per key of the trie, milliseconds per commit of 1,000 keys, megabytes a
second of blobs over loopback between two processes, and the cost of one request and of one frame.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from statistics import median

import uvicorn

from paceline.base.keys import AccountKey
from paceline.network.client import Peer, PeerClient
from paceline.network.server import PeerIdentity, create_peer_app
from paceline.network.wire import PeerRequest
from paceline.store.blobs import BlobStore
from paceline.store.state import SqliteStateStore
from paceline.store.trie import Trie, verify_proof

KEYS = 100_000
CHANGED = 1_000
BLOB_BYTES = 128 * 2**20
FRAMES = 5_000
REQUESTS = 300
SERVER = AccountKey.from_secret(b"s" * 32)
CLIENT = AccountKey.from_secret(b"c" * 32)
CHAIN = "bench"
CHANCE = random.Random(1)


def measure_seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def draw_changes(keys: list[bytes]) -> dict[bytes, bytes | None]:
    return {key: CHANCE.randbytes(100) for key in CHANCE.sample(keys, CHANGED)}


def bench_trie(pairs: dict[bytes, bytes]) -> None:
    keys = list(pairs)
    trie = Trie()
    build = measure_seconds(lambda: trie.with_changes(pairs), time.process_time)
    trie = trie.with_changes(pairs)
    batches = [draw_changes(keys) for _ in range(7)]
    change = median(measure_seconds(partial(trie.with_changes, batch), time.process_time) for batch in batches)
    some = keys[:CHANGED]
    proofs = [trie.prove(key) for key in some]
    prove = measure_seconds(lambda: [trie.prove(key) for key in some], time.process_time)
    root = trie.root
    verify = measure_seconds(
        lambda: [verify_proof(root, key, pairs[key], proof) for key, proof in zip(some, proofs, strict=True)],
        time.process_time,
    )
    print(f"trie of {KEYS} keys, CPU time: build {build:.2f} s, {change / CHANGED * 1e6:.1f} us per changed key,")
    print(f"  proof {prove / CHANGED * 1e6:.1f} us to make, {verify / CHANGED * 1e6:.1f} us to verify")


def bench_commits(pairs: dict[bytes, bytes], path: Path, *, durable: bool) -> None:
    store = SqliteStateStore(path, durable=durable)
    store.stage(pairs)
    store.commit(1, b"genesis")
    stages, commits = [], []
    for height in range(2, 17):
        changes, block = draw_changes(list(pairs)), CHANCE.randbytes(100_000)
        start = time.perf_counter()
        store.stage(changes)
        staged = time.perf_counter()
        store.commit(height, block)
        stages.append(staged - start)
        commits.append(time.perf_counter() - staged)
    store.close()
    start = time.perf_counter()
    SqliteStateStore(path, durable=durable).close()
    print(
        f"{CHANGED} of {KEYS} keys, durable={durable}: stage {median(stages) * 1e3:.1f} ms, "
        f"commit {median(commits) * 1e3:.1f} ms; open and verify {time.perf_counter() - start:.2f} s"
    )


async def echo(request: PeerRequest) -> bytes:
    return request.body


async def stream_tokens(_: PeerRequest) -> AsyncIterator[bytes]:
    for _number in range(FRAMES):
        yield b"a token of text"


def run_server(folder: str, listener: socket.socket) -> None:
    identity = PeerIdentity(address=SERVER.address, chain_id=CHAIN)
    app = create_peer_app({"echo": echo, "tokens": stream_tokens}, blobs=BlobStore(Path(folder)), identity=identity)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    server.run(sockets=[listener])


async def bench_network(url: str, folder: Path, digest: bytes) -> None:
    peer, into = Peer(url, SERVER.address), BlobStore(folder)
    async with PeerClient(CLIENT, CHAIN) as client:
        await client.request(peer, "echo", b"warm")
        start, cpu = time.perf_counter(), time.process_time()
        await client.fetch_blob([peer], digest, into=into)
        rate = BLOB_BYTES / 1e6 / (time.perf_counter() - start)
        cpu_rate = BLOB_BYTES / 1e6 / (time.process_time() - cpu)
        start = time.perf_counter()
        for _ in range(REQUESTS):
            await client.request(peer, "echo", bytes(200))
        request = (time.perf_counter() - start) / REQUESTS
        start = time.perf_counter()
        async with aclosing(client.stream(peer, "tokens", b"")) as stream:
            frames = [len(frame) async for frame in stream]
        per_frame = (time.perf_counter() - start) / len(frames)
    print(f"loopback, two processes: blob of {BLOB_BYTES >> 20} MiB at {rate:.0f} MB/s, hashed and stored")
    print(f"  ({cpu_rate:.0f} MB a second of the fetcher's CPU time),")
    print(f"  signed request and reply {request * 1e3:.2f} ms, frame of a stream {per_frame * 1e6:.0f} us")


def main() -> None:
    pairs = {b"bank/" + CHANCE.randbytes(20): CHANCE.randbytes(100) for _ in range(KEYS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench_trie(pairs)
        for durable in (False, True):
            bench_commits(pairs, folder / f"state-{durable}.db", durable=durable)
        digest = BlobStore(folder / "server").put(CHANCE.randbytes(BLOB_BYTES))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            spawn = multiprocessing.get_context("spawn")
            server = spawn.Process(target=run_server, args=(str(folder / "server"), listener))
            server.start()
            try:
                asyncio.run(bench_network(url, folder / "own", digest))
            finally:
                server.terminate()
                server.join()


if __name__ == "__main__":
    main()
