"""What people see of a node: the web room's Gateway, made from committed state and the relay role."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property

from paceline.economy.pay import compute_task_cost
from paceline.ledger import clock, nodes, prices, race, training
from paceline.ledger.channel_records import CHANNELS
from paceline.ledger.sessions import SESSIONS
from paceline.ledger.state import State
from paceline.ledger.tasks import GUILTY, TASKS, Task
from paceline.models.catalogue import BF16
from paceline.models.language import LanguageModel
from paceline.node.answers.choices import merge_streams
from paceline.node.answers.load import Load
from paceline.node.answers.plans import plan_answers, plan_embeddings, show_delta
from paceline.node.api.keys import KeyRing
from paceline.node.chains.chain import is_alive
from paceline.node.chains.economy import RewardLine
from paceline.node.context import Context
from paceline.node.economy_views import EconomyReader, EconomyView
from paceline.node.models import ModelHost
from paceline.node.roles.answer_events import AnswerEvent, Started
from paceline.node.roles.relay import RelayRole
from paceline.node.settings import COMETBFT
from paceline.node.views import (
    Account,
    BlockView,
    ChatEnd,
    ChatEvent,
    ChatRequest,
    ChatStart,
    CompletionRequest,
    EmbedView,
    EmbedViewRequest,
    ModelView,
    NetworkStatus,
    NodeLoad,
    NodeStatus,
    TaskCost,
    TaskView,
    Topic,
    TrainingView,
    UnknownKey,
    UnknownModel,
    UpstreamFailed,
    VerdictView,
)
from paceline.protocol.answers import AnswerRequest, EmbedRequest, EndFrame, TextFrame, VectorFrame

MICRO = 1_000_000
DEMO, OPERATOR = "demo", "operator"
EMBEDS_AT_ONCE = 8


@dataclass(frozen=True)
class DoorKeys:
    """Who may ask: the operator's own keys, and those of the home's ring. Without any, anybody on this machine."""

    operator: tuple[str, ...]
    ring: KeyRing


class NodeGateway:
    """Implements `views.Gateway` for one node."""

    def __init__(
        self, context: Context, host: ModelHost, relays: Mapping[str, RelayRole], user: bytes, keys: DoorKeys
    ) -> None:
        self._context = context
        self._host = host
        self._relays = relays
        self._user = user
        self._api_keys = keys.operator
        self._ring = keys.ring
        self._started_unix_seconds = int(time.time())

    @cached_property
    def _economy(self) -> EconomyReader:
        return EconomyReader(self._context.chain.application)

    def models(self) -> list[ModelView]:
        """Models that requests may name here: nodes serve them, and this node has their tokenizer."""
        state = self._context.chain.read()
        hosts: dict[str, list[str]] = {}
        for _, node in nodes.NODES.items(state):
            for name in node.serves:
                hosts.setdefault(name, []).append(node.name)
        return [self._describe_model(name, hosts[name]) for name in sorted(hosts) if name in self._relays]

    def authenticate(self, api_key: str | None) -> Account:
        """Any key on loopback; otherwise one of the operator's, or of those given out with `paceline api-key`."""
        given = api_key or ""
        if any(hmac.compare_digest(given.encode(), key.encode()) for key in self._api_keys):
            return Account(address=self._user.hex(), name="operator", key_id=OPERATOR)
        found = self._ring.find(given) if given else None
        if found is not None:
            return Account(address=self._user.hex(), name=found.name, key_id=found.key_id, limits=found.limits)
        if self._api_keys or self._ring.list_keys():
            raise UnknownKey("the API key is missing or unknown; the operator of this node gives keys out")
        return Account(address=self._user.hex(), name=DEMO, key_id=DEMO)

    def find_account(self, key_id: str) -> Account:
        """The account of a key by its id, as long as the key is good."""
        found = self._ring.find_by_id(key_id)
        if found is not None:
            return Account(address=self._user.hex(), name=found.name, key_id=key_id, limits=found.limits)
        is_open = not self._api_keys and not self._ring.list_keys()
        if (key_id == OPERATOR and self._api_keys) or (key_id == DEMO and is_open):
            return Account(address=self._user.hex(), name=key_id, key_id=key_id)
        raise UnknownKey(f"the API key {key_id} is no longer good")

    async def chat(self, account: Account, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        """Ask the network. Closing the generator stops the work."""
        async with aclosing(self._answer(account, request)) as events:
            async for event in events:
                yield event

    async def complete(self, account: Account, request: CompletionRequest) -> AsyncGenerator[ChatEvent, None]:
        """Ask the network to go on from a bare text."""
        async with aclosing(self._answer(account, request)) as events:
            async for event in events:
                yield event

    async def embed(self, account: Account, request: EmbedViewRequest) -> EmbedView:
        """Ask the network for vectors, one task for each input."""
        model = await self._get_model(request.model)
        planned = await asyncio.to_thread(plan_embeddings, model, request)
        room = asyncio.Semaphore(EMBEDS_AT_ONCE)
        runners = [asyncio.create_task(self._embed_one(account, asked, tokens, room)) for asked, tokens in planned]
        try:
            found = await asyncio.gather(*runners)
        finally:
            for runner in runners:
                runner.cancel()
            await asyncio.gather(*runners, return_exceptions=True)
        return EmbedView(
            vectors=tuple(values for values, _ in found),
            tasks=tuple(task for _, task in found),
            prompt_tokens=sum(tokens for _, tokens in planned),
        )

    async def _embed_one(
        self, account: Account, asked: EmbedRequest, tokens: int, room: asyncio.Semaphore
    ) -> tuple[bytes, TaskCost]:
        task_id, executor, values, price = "", "", b"", 0
        async with room, aclosing(self._ask(account, asked, tokens)) as events:
            async for event in events:
                if isinstance(event, Started):
                    task_id, executor = event.task_id.hex(), self._context.peers.name_of(event.executor)
                    price = event.token_price
                elif isinstance(event, VectorFrame):
                    values = event.values
        if not values:
            raise UpstreamFailed("the executor sent no vector")
        cost = compute_task_cost(tokens, 0, price)
        return values, TaskCost(task_id=task_id, executor=executor, cost_nicoin=cost)

    def _ask(
        self, account: Account, asked: AnswerRequest | EmbedRequest, prompt_tokens: int
    ) -> AsyncGenerator[AnswerEvent, None]:
        relay = self._relays[asked.model]
        return relay.ask(asked, prompt_tokens, account.key_id, shares=account.shares_prompts)

    async def _answer(
        self, account: Account, request: ChatRequest | CompletionRequest
    ) -> AsyncGenerator[ChatEvent, None]:
        # A megabyte of text or a large schema takes a thread's time, not that of everybody who waits for tokens.
        plan = await asyncio.to_thread(plan_answers, await self._get_model(request.model), request)
        sources = [self._answer_one(account, asked, plan.prompt_tokens) for asked in plan.requests]
        async with aclosing(sources[0] if len(sources) == 1 else merge_streams(sources)) as events:
            async for event in events:
                yield event

    async def _answer_one(
        self, account: Account, asked: AnswerRequest, prompt_tokens: int
    ) -> AsyncGenerator[ChatEvent, None]:
        task_id, executor, price = "", "", 0
        # Every accepted key bills the one account whose key this node holds; the name keeps its share of the line.
        async with aclosing(self._ask(account, asked, prompt_tokens)) as events:
            async for event in events:
                if isinstance(event, Started):
                    executor, is_first = self._context.peers.name_of(event.executor), not task_id
                    task_id, price = event.task_id.hex(), event.token_price
                    if is_first:
                        yield ChatStart(task_id=task_id, executor=executor, model=asked.model, choice=asked.choice)
                elif isinstance(event, TextFrame):
                    yield show_delta(event, asked.choice)
                elif isinstance(event, EndFrame):
                    yield ChatEnd(
                        finish_reason="length" if event.finish_reason == "length" else "stop",
                        prompt_tokens=event.prompt_tokens,
                        completion_tokens=event.completion_tokens,
                        cost_nicoin=compute_task_cost(event.prompt_tokens, event.completion_tokens, price),
                        task_id=task_id,
                        choice=asked.choice,
                        executor=executor,
                    )

    def status(self) -> NetworkStatus:
        """The network at this node's height."""
        chain, state = self._context.chain, self._context.chain.read()
        current = race.get_race(state)
        epoch = clock.compute_epoch(self._context.params, max(1, state.height))
        found = sorted(nodes.NODES.items(state), key=lambda item: item[1].name)
        return NetworkStatus(
            height=state.height,
            app_hash=chain.application.info().app_hash.hex(),
            engine=chain.label,
            epoch=epoch,
            phase=_name_phase(current),
            nodes=tuple(self._describe_node(state, a, node) for a, node in found),
        )

    def blocks(self, limit: int) -> list[BlockView]:
        """Newest blocks first."""
        recent = list(self._context.chain.recent)[-limit:]
        return [
            BlockView(
                height=block.height,
                app_hash=block.app_hash.hex(),
                transactions=block.transactions,
                unix_milliseconds=block.unix_milliseconds,
            )
            for block in reversed(recent)
        ]

    def tasks(self, limit: int) -> list[TaskView]:
        """Newest tasks of the running epoch first."""
        found = TASKS.items(self._context.chain.read())
        newest = sorted(found, key=lambda item: (-item[1].height, -item[1].index))[:limit]
        return [self._describe_task(task_id, task) for task_id, task in newest]

    def training(self) -> TrainingView | None:
        """The running or last run."""
        runs = training.RUNS.items(self._context.chain.read())
        if not runs:
            return None
        run_id, run = max(runs, key=lambda item: (item[1].phase != training.ENDED, item[1].opened_at))
        return TrainingView(
            run_id=run_id.hex(),
            round=run.round_index,
            rounds=run.rounds,
            losses=tuple((index, loss / MICRO) for index, loss in enumerate(run.losses, start=1)),
            trainers=tuple(self._name(address) for address in run.joined),
            rejected=tuple(self._name(address) for address in run.rejected),
            status=run.phase,
        )

    def economy(self) -> EconomyView:
        """Where coins, prices and proposals stand."""
        return self._economy.read()

    def reward(self, node: str) -> RewardLine | None:
        """How a node's reward in the last settlement came about."""
        return self._economy.explain(node)

    async def changes(self) -> AsyncGenerator[Topic, None]:
        """A topic whenever something moved."""
        tasks_before: object = None
        training_before: object = None
        async with aclosing(self._context.chain.watch()) as heights:
            async for _ in heights:
                yield "block"
                tasks_now, training_now = self.tasks(20), self.training()
                if tasks_now != tasks_before:
                    tasks_before = tasks_now
                    yield "task"
                if training_now != training_before:
                    training_before = training_now
                    yield "training"

    async def _get_model(self, name: str) -> LanguageModel:
        if name not in self._relays:
            raise UnknownModel(name)
        return await self._host.get(name)

    def _describe_model(self, name: str, hosts: list[str]) -> ModelView:
        model = self._host.get_loaded(name)
        return ModelView(
            model_id=name,
            owner="paceline",
            created_unix_seconds=self._started_unix_seconds,
            context_tokens=model.context_tokens if model is not None else 0,
            price_nicoin=prices.get_token_price(self._context.chain.read(), self._context.params, name),
            precision=BF16 if model is not None else "",
            hosts=tuple(sorted(hosts)),
        )

    def _describe_node(self, state: State, address: bytes, node: nodes.Node) -> NodeStatus:
        chain, own = self._context.chain, address == self._context.address
        sighting = chain.sightings.get(address)
        app_hash = chain.application.info().app_hash if own else (sighting.app_hash if sighting else b"")
        roles = ["relay"] if own else ["executor"]
        engine = self._context.settings.engine
        if engine == COMETBFT or own:
            roles.append("validator" if engine == COMETBFT else "sequencer")
        return NodeStatus(
            name=node.name,
            address=address.hex(),
            alive=own or is_alive(sighting),
            height=state.height if own else (sighting.height if sighting else 0),
            app_hash=app_hash.hex(),
            voting_power=node.voting_power,
            tasks=node.tasks,
            checks=node.checks,
            earned_nicoin=node.earned,
            forfeited_nicoin=node.forfeited + node.refunded,
            roles=tuple(roles),
            load=_describe_load(chain.measure_load() if own else chain.get_load(address)),
        )

    def _describe_task(self, task_id: bytes, task: Task) -> TaskView:
        state = self._context.chain.read()
        session = SESSIONS.get(state, task.session) or CHANNELS.get(state, task.session)
        return TaskView(
            task_id=task_id.hex(),
            executor=self._name(task.executor),
            relay=self._name(task.relay),
            model=session.model if session is not None else "",
            status=task.status,
            checkers=tuple(self._name(address) for address in task.drawn),
            verdicts=tuple(
                VerdictView(checker=self._name(v.voter), outcome=v.outcome.upper(), reason=v.reason) for v in task.votes
            ),
            cost_nicoin=task.cost,
            refunded_nicoin=task.cost if task.status == GUILTY else 0,
        )

    def _name(self, address: bytes) -> str:
        return self._context.peers.name_of(address)


def _describe_load(load: Load | None) -> NodeLoad | None:
    if load is None or load.slots == 0:
        return None
    return NodeLoad(
        slots=load.slots,
        under_way=load.under_way,
        waiting=load.waiting,
        tokens_per_second=load.tokens_per_second_milli / 1_000,
        free_context_tokens=load.free_context_tokens,
    )


def _name_phase(current: race.RaceState | None) -> str:
    if current is None:
        return "starting"
    return "serving and training" if current.phase == race.DONE else f"race: {current.phase}"
