"""A Gateway that follows a script, and a real server on loopback around the web application."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Self

import uvicorn
from economy_stage import build_view

from paceline.node.api.desk import ApiDesk
from paceline.node.chains.economy import RewardLine
from paceline.node.economy_views import EconomyView
from paceline.node.patience import PatientProtocol
from paceline.node.views import (
    Account,
    BlockView,
    ChatDelta,
    ChatEnd,
    ChatEvent,
    ChatRequest,
    ChatStart,
    CompletionRequest,
    EmbedView,
    EmbedViewRequest,
    KeyLimits,
    ModelView,
    NetworkStatus,
    NodeStatus,
    TaskCost,
    TaskView,
    TokenView,
    Topic,
    TrainingView,
    UnknownKey,
)
from paceline.web.app import create_app
from paceline.web.settings import WebSettings

MODEL = "smol-135m"
GOOD_KEY = "sk-good"
EXECUTOR = "node-3"
ENGINE = "solo: one sequencer, not Byzantine fault tolerant"


def build_node(name: str, voting_power: int = 0, **changes: object) -> NodeStatus:
    """A node that is alive at height 1."""
    node = NodeStatus(
        name=name,
        address=name.encode().hex().ljust(40, "0"),
        alive=True,
        height=1,
        app_hash="aa" * 32,
        voting_power=voting_power,
        tasks=0,
        checks=0,
        earned_nicoin=0,
        forfeited_nicoin=0,
        roles=("validator",),
    )
    return replace(node, **changes)


def build_status(*nodes: NodeStatus, height: int = 1) -> NetworkStatus:
    """A network of these nodes, seen at the given height."""
    return NetworkStatus(height=height, app_hash="aa" * 32, engine=ENGINE, epoch=0, phase="race", nodes=nodes)


def make_tokens(text: str, top: int | None) -> tuple[TokenView, ...]:
    """One token for a text, when logprobs were asked for."""
    if top is None:
        return ()
    return (TokenView(text.encode(), -0.5, tuple((f"t{rank}".encode(), -1.0 - rank) for rank in range(top))),)


def read_events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each event of a stream."""
    name, data = "", []
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data.append(line.removeprefix("data: "))
        elif name:
            yield name, "\n".join(data)
            name, data = "", []


class ScriptedGateway:
    """Answers with `texts`; `fail_before` and `fail_after` raise; `hang` waits after the texts until it is closed."""

    def __init__(self) -> None:
        self.texts: list[str] = ["Hello", ", ", "world"]
        self.fail_before: Exception | None = None
        self.fail_after: Exception | None = None
        self.hang = False
        self.endless = False
        self.finish_reason = "stop"
        self.model_ids = [MODEL]
        self.known_keys: set[str | None] = {None, GOOD_KEY}
        self.limits = KeyLimits()
        self.chats: list[tuple[Account, ChatRequest]] = []
        self.completions: list[tuple[Account, CompletionRequest]] = []
        self.embeds: list[tuple[Account, EmbedViewRequest]] = []
        self.calls: Counter[str] = Counter()
        self.open_chats = 0
        self.produced = 0
        self.closed = threading.Event()
        self.node_status = build_status()
        self.block_list: list[BlockView] = []
        self.task_list: list[TaskView] = []
        self.training_run: TrainingView | None = None
        self.economy_view = build_view()
        self.reward_lines: dict[str, RewardLine] = {}
        self.watching = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[Topic | None]] = set()

    def models(self) -> list[ModelView]:
        return [
            ModelView(
                model_id=name,
                owner="paceline",
                created_unix_seconds=1,
                context_tokens=2048,
                price_nicoin=1000,
                precision="bf16-cpu",
                hosts=("node-1", "node-3"),
            )
            for name in self.model_ids
        ]

    def authenticate(self, api_key: str | None) -> Account:
        if api_key not in self.known_keys:
            raise UnknownKey("This API key belongs to no account.")
        return Account(address="00" * 20, name=api_key or "demo", key_id=f"id-{api_key or 'demo'}", limits=self.limits)

    def find_account(self, key_id: str) -> Account:
        key = key_id.removeprefix("id-")
        return self.authenticate(None if key == "demo" else key)

    async def chat(self, account: Account, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        self.chats.append((account, request))
        async for event in self._answer(f"task-{len(self.chats)}", request):
            yield event

    async def complete(self, account: Account, request: CompletionRequest) -> AsyncGenerator[ChatEvent, None]:
        self.completions.append((account, request))
        async for event in self._answer(f"text-{len(self.completions)}", request):
            yield event

    async def embed(self, account: Account, request: EmbedViewRequest) -> EmbedView:
        self.embeds.append((account, request))
        if self.fail_before:
            raise self.fail_before
        count = len(request.inputs)
        vectors = tuple(struct.pack("<2f", 1.0, -float(number)) for number in range(count))
        tasks = tuple(TaskCost(task_id=f"embed-{n}", executor=EXECUTOR, cost_nicoin=5) for n in range(count))
        return EmbedView(vectors=vectors, tasks=tasks, prompt_tokens=2 * count)

    async def _answer(self, task_id: str, request: ChatRequest | CompletionRequest) -> AsyncGenerator[ChatEvent, None]:
        """Choices take turns; their task ids differ from the second on."""
        if self.fail_before:
            raise self.fail_before
        names = [task_id if choice == 0 else f"{task_id}-{choice}" for choice in range(request.n)]
        self.open_chats += 1
        try:
            for choice, name in enumerate(names):
                yield ChatStart(task_id=name, executor=EXECUTOR, model=request.model, choice=choice)
            for text in self.texts:
                for choice in range(request.n):
                    self.produced += 1
                    yield ChatDelta(text, choice, make_tokens(text, request.top_logprobs))
            while self.endless:
                self.produced += 1
                yield ChatDelta("x" * 4096)
            if self.hang:
                await asyncio.Event().wait()
            if self.fail_after:
                raise self.fail_after
            for choice, name in enumerate(names):
                yield ChatEnd(
                    finish_reason=self.finish_reason,
                    prompt_tokens=7,
                    completion_tokens=len(self.texts),
                    cost_nicoin=10_000,
                    task_id=name,
                    choice=choice,
                )
        finally:
            self.open_chats -= 1
            self.closed.set()

    def status(self) -> NetworkStatus:
        self.calls["status"] += 1
        return self.node_status

    def blocks(self, limit: int) -> list[BlockView]:
        return self.block_list[:limit]

    def tasks(self, limit: int) -> list[TaskView]:
        self.calls["tasks"] += 1
        return self.task_list[:limit]

    def training(self) -> TrainingView | None:
        return self.training_run

    def economy(self) -> EconomyView:
        self.calls["economy"] += 1
        return self.economy_view

    def reward(self, node: str) -> RewardLine | None:
        return self.reward_lines.get(node)

    async def changes(self) -> AsyncGenerator[Topic, None]:
        queue: asyncio.Queue[Topic | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._queues.add(queue)
        self.watching.release()
        try:
            while (topic := await queue.get()) is not None:
                yield topic
        finally:
            self._queues.discard(queue)
            self.left.release()

    def announce(self, topic: Topic | None) -> None:
        """Tell every open stream from any thread; None ends them."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, topic)

    def _put(self, topic: Topic | None) -> None:
        for queue in self._queues:
            queue.put_nowait(topic)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class LoopbackServer:
    """The web application over a gateway, on a free port of 127.0.0.1."""

    def __init__(
        self,
        gateway: ScriptedGateway,
        settings: WebSettings | None = None,
        desk: ApiDesk | None = None,
        protocol: type[PatientProtocol] = PatientProtocol,
    ) -> None:
        self.gateway = gateway
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            create_app(gateway, settings, desk),
            log_level="critical",
            lifespan="on",
            timeout_graceful_shutdown=2,
            http=protocol,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._server.ready.wait(20), "the server did not start"
        return self

    def __exit__(self, *exc: object) -> None:
        self.gateway.announce(None)
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()
        assert not self._thread.is_alive(), "the server did not stop"
