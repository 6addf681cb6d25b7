"""What people see of a node: the web room's Gateway, made from committed state and the relay role."""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from paceline.base.errors import Invalid
from paceline.economy.pay import compute_task_cost
from paceline.ledger import clock, nodes, race, training
from paceline.ledger.state import State
from paceline.ledger.tasks import GUILTY, TASKS, Task
from paceline.node.chain import is_alive
from paceline.node.context import Context
from paceline.node.load import Load
from paceline.node.models import ModelHost
from paceline.node.roles.relay import RelayRole, Started
from paceline.node.settings import COMETBFT
from paceline.node.views import (
    Account,
    BlockView,
    ChatDelta,
    ChatEnd,
    ChatEvent,
    ChatRequest,
    ChatStart,
    ModelView,
    NetworkStatus,
    NodeLoad,
    NodeStatus,
    RequestRefused,
    TaskView,
    Topic,
    TrainingView,
    UnknownKey,
    UnknownModel,
    VerdictView,
)
from paceline.protocol.answers import AnswerRequest, TextFrame, Turn
from paceline.verification.payloads import build_generation, to_messages

MICRO = 1_000_000
DEFAULT_MAX_TOKENS = 1_024
SEED_BYTES = 32


class NodeGateway:
    """Implements `views.Gateway` for one node."""

    def __init__(
        self, context: Context, host: ModelHost, relay: RelayRole, user: bytes, api_keys: tuple[str, ...]
    ) -> None:
        self._context = context
        self._host = host
        self._relay = relay
        self._user = user
        self._api_keys = api_keys
        self._started_unix_seconds = int(time.time())

    def models(self) -> list[ModelView]:
        """Models that nodes of this network serve."""
        state = self._context.chain.read()
        served = sorted({model for _, node in nodes.NODES.items(state) for model in node.serves})
        model = self._host.loaded
        return [
            ModelView(
                model_id=name,
                owner="paceline",
                created_unix_seconds=self._started_unix_seconds,
                context_tokens=model.context_tokens if model is not None else 0,
                price_nicoin=self._context.params.token_price,
            )
            for name in served
        ]

    def authenticate(self, api_key: str | None) -> Account:
        """Any key on loopback; one of the operator's keys otherwise."""
        known = any(hmac.compare_digest((api_key or "").encode(), key.encode()) for key in self._api_keys)
        if self._api_keys and not known:
            raise UnknownKey("the API key is missing or unknown; the operator of this node gives keys out")
        return Account(address=self._user.hex(), name="demo")

    async def chat(self, account: Account, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        """Ask the network. Closing the generator stops the work."""
        asked, prompt_tokens = await self._prepare(request)
        task_id = executor = ""
        # Every accepted key bills the one account whose key this node holds; the name keeps its share of the line.
        async with aclosing(self._relay.ask(asked, prompt_tokens, account.name)) as events:
            async for event in events:
                if isinstance(event, Started):
                    executor, is_first = self._context.peers.name_of(event.executor), not task_id
                    task_id = event.task_id.hex()
                    if is_first:
                        yield ChatStart(task_id=task_id, executor=executor, model=request.model)
                elif isinstance(event, TextFrame):
                    yield ChatDelta(event.text)
                else:
                    price = self._context.params.token_price
                    yield ChatEnd(
                        finish_reason="length" if event.finish_reason == "length" else "stop",
                        prompt_tokens=event.prompt_tokens,
                        completion_tokens=event.completion_tokens,
                        cost_nicoin=compute_task_cost(event.prompt_tokens, event.completion_tokens, price),
                        task_id=task_id,
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

    async def _prepare(self, request: ChatRequest) -> tuple[AnswerRequest, int]:
        if request.model != self._host.model_id:
            raise UnknownModel(request.model)
        model = await self._host.get()
        turns = tuple(Turn(message.role, message.content) for message in request.messages)
        prompt_tokens = len(model.encode_chat(to_messages(turns)))
        room = model.context_tokens - prompt_tokens
        if room < 1:
            text = f"the prompt has {prompt_tokens} tokens, the model's context holds {model.context_tokens}"
            raise RequestRefused("messages", "context_length_exceeded", text)
        if request.max_tokens is not None and request.max_tokens > room:
            text = f"max_tokens is {request.max_tokens}; the prompt leaves room for {room} tokens"
            raise RequestRefused("max_tokens", "context_length_exceeded", text)
        asked = AnswerRequest(
            model=request.model,
            turns=turns,
            max_tokens=request.max_tokens if request.max_tokens is not None else min(room, DEFAULT_MAX_TOKENS),
            temperature_ppm=round(request.temperature * MICRO),
            top_p_ppm=max(1, round(request.top_p * MICRO)),
            stop=request.stop,
            user_seed=request.seed,
        )
        try:
            build_generation(model, asked, bytes(SEED_BYTES))
        except Invalid as problem:
            raise RequestRefused(problem.code, "invalid_value", problem.message) from None
        return asked, prompt_tokens

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
        return TaskView(
            task_id=task_id.hex(),
            executor=self._name(task.executor),
            relay=self._name(task.relay),
            model=self._host.model_id,
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
