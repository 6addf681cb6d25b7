"""What a node shows to people: frozen views, the chat events, and the `Gateway` that the web room calls.

Refuses to know: sockets, torch, web frameworks, how any number came to be. Plain data, safe to hand to another thread.
Invariant: amounts are integers of nicoin; floats are what nobody pays by: training losses, paces, options and logprobs as shown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from paceline.base.errors import PacelineError
from paceline.node.chains.economy import RewardLine
from paceline.node.economy_views import EconomyView

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]
Topic = Literal["block", "task", "training"]


class GatewayError(PacelineError):
    """A request was not served; the web room gives each kind below its own status."""


class RequestRefused(GatewayError):
    """The request itself cannot be served: `field` is what the user must change. Nothing was charged."""

    def __init__(self, field: str | None, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.field = field
        self.code = code
        self.message = message
        self.status = status


class UnknownModel(GatewayError):
    """No node serves a model of this name."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model[:200]!r} does not exist on this network; GET /v1/models lists what does.")
        self.model = model


class UnknownKey(GatewayError):
    """The API key is missing or belongs to no account."""


class KeyForbidden(GatewayError):
    """The API key is good, but not for what was asked."""


class KeyLimited(GatewayError):
    """The API key has used up a limit that its operator set. Nothing was charged."""

    def __init__(self, message: str, code: str, retry_after_seconds: int, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers


class OutOfFunds(GatewayError):
    """The account cannot cover the most that this request may cost. Nothing was charged."""


class Busy(GatewayError):
    """Every node that could answer is at its limit. Nothing was charged."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UpstreamFailed(GatewayError):
    """The nodes drawn for this request did not answer, or an answer broke off."""


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """What an API key may do; None and an empty tuple set no limit. Days are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    nicoin_per_day: int | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who asks and who pays. `address` is the paying ledger account in hex, `name` is for people.

    `key_id` names the API key without telling it: files, batches, stored answers and usage belong to that.
    """

    address: str
    name: str
    key_id: str = "demo"
    limits: KeyLimits = KeyLimits()
    shares_prompts: bool = False
    """Lets this request's prompt be used again for dummy tasks, as its header says."""


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """A model that requests may name.

    Units: price in nicoin for each token, read or written; `context_tokens` is 0 while this node does not know it,
    `precision` empty likewise. `hosts` are names of the nodes that serve it.
    """

    model_id: str
    owner: str
    created_unix_seconds: int
    context_tokens: int
    price_nicoin: int
    precision: str = ""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """The form that an answer must have: any JSON object, JSON of the schema in `text`, or the pattern in `text`."""

    kind: Literal["json_object", "json_schema", "regex"]
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How answers are made, under OpenAI's names and in its units. `max_tokens` None leaves the limit to the context.

    `n` answers are made, told apart by `choice` in every event. `top_logprobs` None asks for no logprobs.
    `logit_bias` pairs token ids with what is added to their logits, sorted by id.
    """

    model: str
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, kw_only=True)
class ChatRequest(AnswerOptions):
    """A validated conversation to go on with. Tools are part of its turns and grammar already."""

    messages: tuple[ChatMessage, ...]


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(AnswerOptions):
    """A validated text, or token ids, to go on from."""

    prompt: str | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EmbedViewRequest:
    """Texts, or token ids, to turn into vectors."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class EmbedView:
    """One vector for each input, as little-endian fp32 of unit length, and the task behind each."""

    vectors: tuple[bytes, ...]
    tasks: tuple[TaskCost, ...]
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True)
class TaskCost:
    """One paid task of a request. Units: cost in nicoin."""

    task_id: str
    executor: str
    cost_nicoin: int


@dataclass(frozen=True, kw_only=True)
class ChatStart:
    """First event of every choice: which node took the task. Identifiers are printable ASCII."""

    task_id: str
    executor: str
    model: str
    choice: int = 0


@dataclass(frozen=True)
class TokenView:
    """One token of an answer. Units: natural logarithm of its probability; `top` pairs bytes with the same."""

    content: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True)
class ChatDelta:
    """More text of one choice; `tokens` only when logprobs were asked for."""

    text: str
    choice: int = 0
    tokens: tuple[TokenView, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ChatEnd:
    """Last event of a complete choice. `executor` ended it, when that is not the one that began. Units: cost in nicoin."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cost_nicoin: int
    task_id: str
    choice: int = 0
    executor: str = ""


ChatEvent = ChatStart | ChatDelta | ChatEnd


@dataclass(frozen=True, kw_only=True)
class NodeLoad:
    """How busy an executor says it is: answers at once, in the making, in line; what its free slots could still hold."""

    slots: int
    under_way: int
    waiting: int
    tokens_per_second: float
    free_context_tokens: int


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """One node as seen from here. Units: voting power in the ledger's integers, amounts in nicoin."""

    name: str
    address: str
    alive: bool
    height: int
    app_hash: str
    voting_power: int
    tasks: int
    checks: int
    earned_nicoin: int
    forfeited_nicoin: int
    roles: tuple[str, ...]
    load: NodeLoad | None = None
    """None for a node that was not heard of a moment ago, or serves nothing."""


@dataclass(frozen=True, kw_only=True)
class NetworkStatus:
    """The network at one height. `app_hash` is the hex hash after the block at `height`."""

    height: int
    app_hash: str
    engine: str
    epoch: int
    phase: str
    nodes: tuple[NodeStatus, ...]


@dataclass(frozen=True, kw_only=True)
class BlockView:
    """One block. `app_hash` is the hex hash after it, `transactions` a count."""

    height: int
    app_hash: str
    transactions: int
    unix_milliseconds: int


@dataclass(frozen=True, kw_only=True)
class VerdictView:
    """What one checker concluded. `outcome` is ACCEPTED, REJECTED or UNDECIDED."""

    checker: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """One paid task. `status` is a word for people; `checkers` were drawn, `verdicts` are those who have spoken."""

    task_id: str
    executor: str
    relay: str
    model: str
    status: str
    checkers: tuple[str, ...]
    verdicts: tuple[VerdictView, ...]
    cost_nicoin: int
    refunded_nicoin: int


@dataclass(frozen=True, kw_only=True)
class TrainingView:
    """A training run. `losses` pairs the closed round with its mean loss, `rejected` names trainers of refused updates."""

    run_id: str
    round: int
    rounds: int
    losses: tuple[tuple[int, float], ...]
    trainers: tuple[str, ...]
    rejected: tuple[str, ...]
    status: str


class Gateway(Protocol):
    """What a node offers to the web room. Methods that are not async answer from memory and never block."""

    def models(self) -> list[ModelView]:
        """Return the models that requests may name."""
        ...

    def authenticate(self, api_key: str | None) -> Account:
        """Return who asks and pays with this key.

        Errors: UnknownKey, for the web room to answer 401.
        """
        ...

    def find_account(self, key_id: str) -> Account:
        """Return the account of a key whose work goes on without it, such as a batch.

        Errors: UnknownKey when the key is no longer good.
        """
        ...

    def chat(self, account: Account, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        """Yield, for each choice, one ChatStart, ChatDeltas, one ChatEnd; choices may interleave.

        Errors: GatewayError before the first event means nothing was charged. Effects: closing or cancelling the
        generator means the client is gone: the work stops and only what was produced is charged.
        """
        ...

    def complete(self, account: Account, request: CompletionRequest) -> AsyncGenerator[ChatEvent, None]:
        """Do the same for a bare text."""
        ...

    async def embed(self, account: Account, request: EmbedViewRequest) -> EmbedView:
        """Return the vectors of the inputs.

        Errors: GatewayError.
        """
        ...

    def status(self) -> NetworkStatus:
        """Return the network as this node sees it."""
        ...

    def blocks(self, limit: int) -> list[BlockView]:
        """Return the newest blocks, newest first."""
        ...

    def tasks(self, limit: int) -> list[TaskView]:
        """Return the newest tasks, newest first."""
        ...

    def training(self) -> TrainingView | None:
        """Return the current or last training run."""
        ...

    def economy(self) -> EconomyView:
        """Return where coins, prices and proposals stand."""
        ...

    def reward(self, node: str) -> RewardLine | None:
        """Return how a node's reward in the last settlement came about, None when it was not in one."""
        ...

    def changes(self) -> AsyncGenerator[Topic, None]:
        """Yield a topic whenever something about it changed, repeats joined; end when the node stops."""
        ...
