"""Many slow streams at once through one gateway process on one core: tokens lost, and how much later they come.

Run: python bench/gateway.py [--streams N] [--seconds N] [--pace TOKENS_PER_SECOND]. Three processes: an executor that follows a
script, the gateway (web app, NodeGateway, relay, peer client, all as in a node; the ledger stands still), pinned to one core,
and clients on plain sockets. Each token carries the time at which the executor made it, so its way to the client (two hops:
executor to gateway, gateway to client) is measured token by token on one machine's clock. CPU seconds of the gateway are its own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import msgspec
import uvicorn
import uvloop

from paceline.base.keys import AccountKey
from paceline.cli.environment import get_cache_path
from paceline.ledger import accounts, beacon, groups, nodes
from paceline.ledger.sessions import Session
from paceline.ledger.state import State
from paceline.models.language import LanguageModel, prepare_model
from paceline.models.threads import use_one_thread
from paceline.network.client import PeerClient
from paceline.network.server import PeerIdentity, create_peer_app
from paceline.network.wire import PeerRequest
from paceline.node.answers.load import Load
from paceline.node.api.keys import KeyRing
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.founding import Founder, Founding, build_genesis
from paceline.node.duties import Duties
from paceline.node.gateway import DoorKeys, NodeGateway
from paceline.node.metrics import Metrics
from paceline.node.peers import Peers
from paceline.node.roles.relay import RelayRole
from paceline.node.roles.relay_sessions import OpenedSession
from paceline.node.settings import NodeSettings, PeerEntry
from paceline.node.tracing import Tracing
from paceline.protocol.answers import EndFrame, TextFrame
from paceline.protocol.codec import encode
from paceline.protocol.params import NICOIN_PER_COIN, TINY
from paceline.store.state import MemoryStateStore
from paceline.web.app import create_app

CHAIN_ID = "bench-1"
MODEL = "smollm2-135m-instruct"
RELAY, EXECUTOR, USER = (AccountKey.from_secret(bytes([number]) * 32) for number in (1, 2, 3))
RAMP_SECONDS = 8.0
"""Streams begin spread over this long, as users do."""
HOPS = 2
GOAL_STREAMS, GOAL_HOP_MS = 1_000, 30.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured."""

    streams: int
    tokens: int
    pace: float


class StillChain:
    """Committed state that does not move: only requests do."""

    chain_id = CHAIN_ID
    height = 10

    def __init__(self, state: State, slots: int) -> None:
        self._state = state
        self._load = Load(slots=slots)

    def read(self) -> State:
        """Committed state."""
        return self._state

    def measure_load(self) -> Load:
        """A relay answers nothing itself."""
        return Load()

    def get_load(self, _address: bytes) -> Load:
        """What the executor says of itself."""
        return self._load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=GOAL_STREAMS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pace", type=float, default=5.0)
    parser.add_argument("--profile", action="store_true", help="Print where the gateway's time went.")
    asked = parser.parse_args()
    plan = Plan(streams=asked.streams, tokens=round(asked.seconds * asked.pace), pace=asked.pace)
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    with (
        socket.create_server(("127.0.0.1", 0), backlog=4096) as peers,
        socket.create_server(("127.0.0.1", 0), backlog=4096) as web,
    ):
        pipe, theirs = context.Pipe()
        executor = context.Process(target=run_executor, args=(peers, plan, set(cores[1:] or cores)))
        gateway = context.Process(
            target=run_gateway, args=(web, peers.getsockname()[1], plan, {cores[0]}, theirs, asked.profile)
        )
        executor.start()
        gateway.start()
        theirs.close()
        try:
            pipe.recv()
            os.sched_setaffinity(0, set(cores[1:] or cores))
            answers = uvloop.run(ask_all(web.getsockname()[1], plan))
            pipe.send("stop")
            cpu_seconds = pipe.recv()
        finally:
            executor.kill()
            gateway.join(10)
            gateway.kill()
    report(plan, answers, cpu_seconds)
    if not all(answer.complete for answer in answers):
        sys.exit(1)


@dataclass
class Answered:
    """One stream: delays of its tokens in milliseconds, and whether it came to its proper end."""

    delays: list[float]
    complete: bool
    problem: str = ""


def report(plan: Plan, answers: list[Answered], cpu_seconds: float) -> None:
    delays = [delay for answer in answers for delay in answer.delays]
    wanted = plan.streams * plan.tokens
    steps = quantiles(delays, n=100) if len(delays) > 1 else [float("nan")] * 99
    whole = sum(answer.complete for answer in answers)
    per_token = cpu_seconds / max(1, len(delays))
    print(f"{plan.streams} streams of {plan.tokens} tokens at {plan.pace:g} tokens/s, gateway on one core")
    print(f"  complete streams                {whole} of {plan.streams}")
    print(f"  tokens received                 {len(delays)} of {wanted}")
    print(
        f"  later per hop, ms, p50/p95/p99  {steps[49] / HOPS:.1f} / {steps[94] / HOPS:.1f} / {steps[98] / HOPS:.1f}   (goal: p50 at most {GOAL_HOP_MS:g})"
    )
    print(
        f"  gateway CPU                     {1e6 * per_token:.0f} microseconds a token; one core holds {1 / per_token / plan.pace:.0f} such streams"
    )
    for problem in sorted({answer.problem for answer in answers if answer.problem})[:5]:
        print(f"  problem: {problem}")


# The executor.


def run_executor(listen: socket.socket, plan: Plan, cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)

    async def answer(_request: PeerRequest) -> AsyncIterator[bytes]:
        began = time.monotonic()
        for index in range(plan.tokens):
            await asyncio.sleep(max(0.0, began + index / plan.pace - time.monotonic()))
            yield encode(TextFrame(f"{time.monotonic_ns()} "))
        yield encode(EndFrame("stop", 10, plan.tokens, bytes(32)))

    identity = PeerIdentity(address=EXECUTOR.address, chain_id=CHAIN_ID)
    app = create_peer_app({"task": answer}, blobs=SimpleNamespace(), identity=identity)
    uvloop.run(make_server(app).serve(sockets=[listen]))


def make_server(app: Any) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", backlog=4096))


# The gateway.


def run_gateway(
    listen: socket.socket, executor_port: int, plan: Plan, cores: set[int], pipe: Connection, profile: bool
) -> None:
    os.sched_setaffinity(0, cores)
    use_one_thread()
    model = LanguageModel.load(prepare_model(get_cache_path(), progress=print))

    async def serve(folder: Path) -> None:
        server = make_server(create_app(make_gateway(model, executor_port, plan, folder)))
        runner = asyncio.create_task(server.serve(sockets=[listen]))
        while not server.started:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        pipe.send("ready")
        before = time.process_time()
        if profile:
            import cProfile  # noqa: PLC0415 - only when asked for

            profiler = cProfile.Profile()
            profiler.enable()
        while not pipe.poll():  # noqa: ASYNC110 - the other end is a process
            await asyncio.sleep(0.1)
        pipe.send(time.process_time() - before)
        if profile:
            import pstats  # noqa: PLC0415 - only when asked for

            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
        server.force_exit = server.should_exit = True
        await runner

    with TemporaryDirectory() as folder:
        uvloop.run(serve(Path(folder)))


def make_gateway(model: LanguageModel, executor_port: int, plan: Plan, folder: Path) -> NodeGateway:
    state = make_state()
    peers = tuple(
        PeerEntry(name=name, public_key=key.public_key.hex(), url=f"http://127.0.0.1:{port}")
        for name, key, port in (("relay", RELAY, 1), ("executor", EXECUTOR, executor_port))
    )
    settings = NodeSettings(name="relay", sequencer="relay", peers=peers)
    context: Any = SimpleNamespace(
        settings=settings,
        key=RELAY,
        address=RELAY.address,
        params=TINY,
        chain=StillChain(state, plan.streams),
        duties=Duties(),
        metrics=Metrics(),
        tracing=Tracing(),
        peers=Peers(settings, PeerClient(RELAY, CHAIN_ID), SimpleNamespace()),  # type: ignore[arg-type]
    )

    async def get(_model_id: str) -> LanguageModel:
        return model

    host: Any = SimpleNamespace(get=get, get_loaded=lambda _model_id: model)
    relay = RelayRole(context, MODEL, USER)
    session = Session(
        owner=USER.address,
        owner_key=USER.public_key,
        relay=RELAY.address,
        model=MODEL,
        token_price=TINY.unit_price,
        left=10**6 * NICOIN_PER_COIN,
        deposit=10**6 * NICOIN_PER_COIN,
        max_tasks=10**9,
        expires_at=10**9,
        round_index=0,
        seed=bytes(32),
        version=nodes.get_version(state),
    )
    relay.sessions.current = OpenedSession(bytes(16), session)
    keys = DoorKeys(operator=(), ring=KeyRing(folder))
    return NodeGateway(context, host, {MODEL: relay}, USER.address, keys)


def make_state() -> State:
    founders = [
        Founder(
            name=name,
            key=key,
            consensus_key=key.public_key,
            ceremony_key=CeremonyKey(key.address, key.secret),
            weight=1_000,
            serves=(MODEL,),
        )
        for name, key in (("relay", RELAY), ("executor", EXECUTOR))
    ]
    genesis = build_genesis(Founding(network="bench", params=TINY, founders=founders, accounts=(), bootstrap=bytes(32)))
    store = MemoryStateStore()
    state = State(store, height=10)
    for part in (accounts, nodes, groups):
        part.apply_genesis(state, genesis)
    beacon.apply_genesis(state, TINY, genesis.beacon)
    store.stage(state.changes)
    store.commit(1, b"")
    return State(store, height=10)


# The clients.


async def ask_all(port: int, plan: Plan) -> list[Answered]:
    async def ask_later(index: int) -> Answered:
        await asyncio.sleep(RAMP_SECONDS * index / plan.streams)
        try:
            async with asyncio.timeout(60 + 3 * plan.tokens / plan.pace):
                return await ask(port, index)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as problem:
            return Answered([], False, repr(problem))

    return await asyncio.gather(*(ask_later(index) for index in range(plan.streams)))


async def ask(port: int, index: int) -> Answered:
    body = msgspec.json.encode(
        {"model": MODEL, "messages": [{"role": "user", "content": f"Question {index}"}], "stream": True}
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = Answered([], False)
    try:
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            rest = await reader.read()
            return Answered([], False, f"{status!r} {rest[-200:]!r}")
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                answer.complete = not answer.problem
                break
            if line.startswith(b"data: {"):
                note(answer, line)
    finally:
        writer.close()
    return answer


def note(answer: Answered, line: bytes) -> None:
    now = time.monotonic_ns()
    chunk = msgspec.json.decode(line[6:])
    if "error" in chunk:
        answer.problem = chunk["error"]["message"]
        return
    for choice in chunk["choices"]:
        stamps = (choice["delta"].get("content") or "").split()
        answer.delays += [(now - int(stamp)) / 1e6 for stamp in stamps]


if __name__ == "__main__":
    main()
