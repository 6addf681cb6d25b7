"""What commands on this machine may ask of a running network, guarded by the operator's token.

Reports, where upgrades, proposals, the liquidity pool and the bridge stand, trying and passing on what was signed here, opening a training run, a sample of its
text, ordering blocks without pause. JSON over HTTP.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paceline.base.errors import ConfigError, Invalid, InvalidTransaction, TransportError, WorkError
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger import nodes, training
from paceline.ledger.tasks import TASKS
from paceline.models.byte_gpt import sample_text
from paceline.node.answers.receipts import ReceiptMaker
from paceline.node.answers.reports import build_report
from paceline.node.bridge.desk import BridgeDesk
from paceline.node.chains.accounts import build_account
from paceline.node.chains.economy import build_economy_status, build_reward
from paceline.node.chains.pools import Side, build_pool_status, build_quote
from paceline.node.chains.proposals import build_governance_status
from paceline.node.chains.runs import RunShape, ShapeOrder, build_runs_status, find_plan
from paceline.node.chains.trial import try_draft, try_transaction
from paceline.node.chains.upgrades import build_upgrade_status
from paceline.node.context import Context
from paceline.node.gateway import NodeGateway
from paceline.protocol.assets import TUSD, AssetName
from paceline.protocol.codec import decode, encode
from paceline.protocol.fields import MAX_SUPPLY
from paceline.protocol.messages import LeaveNetwork, RegisterNode, Registration, ReportTask
from paceline.protocol.openings import OpenRun
from paceline.protocol.params import NICOIN_PER_COIN
from paceline.protocol.transactions import decode_transaction
from paceline.training.claim import build_initial_state, decode_global_state
from paceline.training.plan import TrainingPlan, decode_plan, encode_plan
from paceline.training.run import evaluate, load_model

Endpoint = Callable[[Request], Awaitable[object]]
PAY_PER_UPDATE = 5 * NICOIN_PER_COIN
MAX_REGISTRATION_BYTES = 4_096
MAX_DATA_BYTES = 256 * 1024 * 1024


class TrainOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run to open; `data_hash` names what was uploaded before."""

    data_hash: str
    trainers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 3
    rounds: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 5
    inner_steps: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 40
    segment_steps: Annotated[int, msgspec.Meta(ge=1, le=10)] = 10
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=4_096)] = 16
    seed: str = "paceline"


class TrainStarted(msgspec.Struct, frozen=True, kw_only=True):
    """The opened run and the held-out loss (nats per byte) before any training."""

    run: str
    first_loss: float


class SampleOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text from the state that a run has reached."""

    run: str
    prompt: Annotated[str, msgspec.Meta(max_length=1_000)] = "ROMEO:\n"
    length: Annotated[int, msgspec.Meta(ge=1, le=2_000)] = 300


class ReportOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer of this home's account to doubt."""

    task: str


class AdvanceOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Order blocks without pause up to a height."""

    height: int


class Sponsored(msgspec.Struct, frozen=True, kw_only=True):
    """A node whose deposit was paid, and since when it is one."""

    name: str
    height: int


class QuoteOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trade with the liquidity pool to try, by the account of this address in hex digits. Units: nicoin."""

    side: Side
    coins: Annotated[int, msgspec.Meta(ge=0, le=MAX_SUPPLY)]
    account: str
    asset: AssetName = TUSD


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The height of the block that holds a transaction."""

    height: int


class ReceiptFile(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of a user's receipt."""

    data: bytes


class TaskState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task stands on the ledger, by node names; verdicts as (checker, outcome)."""

    status: str
    checkers: list[str]
    verdicts: list[tuple[str, str]]


class LeaveOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a node out: this one by its own key, any other as its sponsor."""

    name: str


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """A node on its way out, and the epoch at whose end it is gone at the earliest."""

    name: str
    after_epoch: int


class Control:
    """The endpoints over one gateway node."""

    def __init__(
        self,
        context: Context,
        gateway: NodeGateway,
        user: AccountKey,
        token: str,
        receipts: ReceiptMaker,
        bridge: BridgeDesk,
    ) -> None:
        self._context = context
        self._gateway = gateway
        self._user = user
        self._token = token
        self._receipts = receipts
        self._bridge = bridge

    def create_app(self) -> Starlette:
        """The ASGI app, to be mounted beside the web room."""
        return Starlette(
            routes=[
                Route("/report", self._guard(self._report), methods=["GET"]),
                Route("/status", self._guard(self._status), methods=["GET"]),
                Route("/task/{task}", self._guard(self._task), methods=["GET"]),
                Route("/receipt/{task}", self._guard(self._receipt), methods=["GET"]),
                Route("/data", self._guard(self._put_data), methods=["POST"]),
                Route("/train", self._guard(self._train), methods=["POST"]),
                Route("/sample", self._guard(self._sample), methods=["POST"]),
                Route("/sponsor", self._guard(self._sponsor), methods=["POST"]),
                Route("/report-answer", self._guard(self._report_answer), methods=["POST"]),
                Route("/leave", self._guard(self._leave), methods=["POST"]),
                Route("/transaction", self._guard(self._transaction), methods=["POST"]),
                Route("/trial", self._guard(self._trial), methods=["POST"]),
                Route("/trial/draft", self._guard(self._trial_draft), methods=["POST"]),
                Route("/account", self._guard(self._account), methods=["GET"]),
                Route("/upgrade", self._guard(self._upgrade), methods=["GET"]),
                Route("/governance", self._guard(self._governance), methods=["GET"]),
                Route("/runs", self._guard(self._runs), methods=["GET"]),
                Route("/run/shape", self._guard(self._run_shape), methods=["POST"]),
                Route("/economy", self._guard(self._economy), methods=["GET"]),
                Route("/reward", self._guard(self._reward), methods=["GET"]),
                Route("/pool", self._guard(self._pool), methods=["GET"]),
                Route("/pool/quote", self._guard(self._quote), methods=["POST"]),
                Route("/bridge", self._guard(self._bridge.show), methods=["GET"]),
                Route("/bridge/header/{number:int}", self._guard(self._bridge.show_header), methods=["GET"]),
                Route("/bridge/signatures/{number:int}", self._guard(self._bridge.collect), methods=["GET"]),
                Route("/bridge/withdrawals/{height:int}", self._guard(self._bridge.find_burnt), methods=["GET"]),
                Route("/advance", self._guard(self._advance), methods=["POST"]),
            ]
        )

    def _guard(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                return _fail(401, "the operator's token is missing or wrong")
            try:
                found = await endpoint(request)
            except (msgspec.ValidationError, msgspec.DecodeError, ConfigError, Invalid) as problem:
                return _fail(400, str(problem))
            except (TransportError, WorkError) as problem:
                return _fail(503, str(problem))
            return Response(msgspec.json.encode(found), media_type="application/json")

        return guarded

    async def _report(self, _: Request) -> object:
        return build_report(self._context)

    async def _status(self, _: Request) -> object:
        return self._gateway.status()

    async def _task(self, request: Request) -> object:
        task_id = _parse_digest(request.path_params["task"], "task")
        task = TASKS.get(self._context.chain.read(), task_id)
        if task is None:
            return None
        name = self._context.peers.name_of
        return TaskState(
            status=task.status,
            checkers=[name(address) for address in task.drawn],
            verdicts=[(name(vote.voter), vote.outcome) for vote in task.votes],
        )

    async def _receipt(self, request: Request) -> object:
        task_id = _parse_digest(request.path_params["task"], "task")
        return ReceiptFile(data=encode(await self._receipts.make(task_id)))

    async def _put_data(self, request: Request) -> object:
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > MAX_DATA_BYTES:
                raise ConfigError(f"the training text is over {MAX_DATA_BYTES} bytes")
        return {"data_hash": self._context.blobs.put(bytes(data)).hex()}

    async def _train(self, request: Request) -> object:
        order = msgspec.json.decode(await request.body(), type=TrainOrder)
        data_hash = _parse_digest(order.data_hash, "data_hash")
        plan = TrainingPlan(
            data_hash=data_hash,
            seed=hash_parts("training-plan", order.seed.encode()),
            rounds=order.rounds,
            inner_steps=order.inner_steps,
            segment_steps=order.segment_steps,
            batch_size=order.batch_size,
        )
        corpus = self._context.blobs.get(data_hash)
        state = build_initial_state(plan)
        loss = await self._context.threads.run("check", evaluate, plan, state, corpus)
        message = OpenRun(
            plan=encode_plan(plan),
            data_hash=data_hash,
            state_hash=self._context.blobs.put(state),
            rounds=plan.rounds,
            trainers=order.trainers,
            segments=plan.segment_count,
            budget=PAY_PER_UPDATE * plan.rounds * order.trainers,
        )
        digest, _ = await self._context.chain.send(message, key=self._user)
        run_id = training.compute_run_id(self._user.address, digest)
        return TrainStarted(run=run_id.hex(), first_loss=loss / 1_000_000)

    async def _sample(self, request: Request) -> object:
        order = msgspec.json.decode(await request.body(), type=SampleOrder)
        run = training.RUNS.get(self._context.chain.read(), _parse_digest(order.run, "run"))
        if run is None:
            raise InvalidTransaction("unknown-run", "no run has this id")
        plan = decode_plan(run.plan)
        data = await self._context.peers.fetch_blob(run.state_hash, [])
        text = await self._context.threads.run("check", _write_sample, plan, data, order)
        return {"text": text}

    async def _sponsor(self, request: Request) -> object:
        registration = decode(Registration, await request.body(), limit_bytes=MAX_REGISTRATION_BYTES)
        _, included = await self._context.chain.send(RegisterNode(registration), key=self._user)
        return Sponsored(name=registration.name, height=included.height)

    async def _leave(self, request: Request) -> object:
        order = msgspec.json.decode(await request.body(), type=LeaveOrder)
        context = self._context
        address = nodes.find_address(context.chain.read(), order.name)
        if address is None:
            raise ConfigError(f"no node is called {order.name!r}")
        key = context.key if address == context.address else self._user
        await context.chain.send(LeaveNetwork(address), key=key)
        node = nodes.NODES.get(context.chain.read(), address)
        return Leaving(name=order.name, after_epoch=node.leaves if node is not None else 0)

    async def _report_answer(self, request: Request) -> object:
        order = msgspec.json.decode(await request.body(), type=ReportOrder)
        task_id = _parse_digest(order.task, "task")
        _, included = await self._context.chain.send(ReportTask(task_id), key=self._user)
        return Sent(height=included.height)

    async def _transaction(self, request: Request) -> object:
        """A transaction that was signed elsewhere on this machine, such as by the key of another node of the home."""
        data = await request.body()
        _, body = decode_transaction(data)
        included = await self._context.chain.send_signed(data, body.expires_at)
        return Sent(height=included.height)

    async def _trial(self, request: Request) -> object:
        """What a signed transaction would do; it is not sent."""
        return try_transaction(self._context.chain.application, await request.body())

    async def _trial_draft(self, request: Request) -> object:
        """What a joint account's transaction would do once all have signed it."""
        return try_draft(self._context.chain.application, await request.body())

    async def _account(self, request: Request) -> object:
        return build_account(self._context.chain.read(), request.query_params.get("account", ""))

    async def _governance(self, _: Request) -> object:
        chain = self._context.chain
        return build_governance_status(chain.read(), chain.application.genesis.params)

    async def _upgrade(self, _: Request) -> object:
        chain = self._context.chain
        return build_upgrade_status(chain.read(), chain.application.has_handler)

    async def _runs(self, _: Request) -> object:
        return build_runs_status(self._context.chain.read())

    async def _run_shape(self, request: Request) -> object:
        """The first state of a voted plan, made and kept here."""
        order = msgspec.json.decode(await request.body(), type=ShapeOrder)
        plan = find_plan(self._context.chain.read(), order)
        state = await self._context.threads.run("check", build_initial_state, plan)
        return RunShape(
            state_hash=self._context.blobs.put(state).hex(),
            data_hash=plan.data_hash.hex(),
            rounds=plan.rounds,
            segments=plan.segment_count,
        )

    async def _economy(self, _: Request) -> object:
        chain = self._context.chain
        return build_economy_status(chain.read(), chain.application.params)

    async def _reward(self, request: Request) -> object:
        epoch = request.query_params.get("epoch", "")
        if epoch and not epoch.isdecimal():
            raise ConfigError(f"epoch: {epoch!r} is no number of an epoch")
        name = request.query_params.get("node", "")
        return build_reward(self._context.chain.read(), name, int(epoch) if epoch else None)

    async def _pool(self, request: Request) -> object:
        account = _parse_digest(request.query_params.get("account", ""), "account")
        return build_pool_status(self._context.chain.read(), account)

    async def _quote(self, request: Request) -> object:
        order = msgspec.json.decode(await request.body(), type=QuoteOrder)
        chain, account = self._context.chain, _parse_digest(order.account, "account")
        return build_quote(chain.read(), chain.application.params, order.side, account, order.coins, order.asset)

    async def _advance(self, request: Request) -> object:
        order = msgspec.json.decode(await request.body(), type=AdvanceOrder)
        self._context.chain.rush_to(order.height)
        return {"height": self._context.chain.height}


def _write_sample(plan: TrainingPlan, state: bytes, order: SampleOrder) -> str:
    model = load_model(plan, decode_global_state(plan, state).params)
    return sample_text(model, order.prompt.encode(), length=order.length, seed=hash_parts("sample", state[:1024]))


def _parse_digest(text: str, field: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{field} must be hex digits") from None


def _fail(status: int, message: str) -> Response:
    return Response(msgspec.json.encode({"error": message}), status, media_type="application/json")
