"""From what people ask to tasks and back: the gateway over a relay that follows a script, and a model of letters."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from paceline.inference.grammar import ENGINE
from paceline.node.answers.plans import DEFAULT_MAX_TOKENS, plan_answers, plan_embeddings
from paceline.node.api.keys import KeyRing
from paceline.node.gateway import DoorKeys, NodeGateway
from paceline.node.roles.relay import Started
from paceline.node.views import (
    ChatDelta,
    ChatEnd,
    ChatMessage,
    ChatRequest,
    ChatStart,
    CompletionRequest,
    EmbedViewRequest,
    Grammar,
    KeyLimits,
    RequestRefused,
    UnknownKey,
    UnknownModel,
    UpstreamFailed,
)
from paceline.protocol.answers import EndFrame, TextFrame, TextPrompt, TokenLogprob, TokenPrompt, VectorFrame
from paceline.protocol.params import TINY

LETTERS = '{}[]":, abcdefghijklmnopqrstuvwxyz0123456789'


class LetterModel:
    model_id = "letters"
    content_hash = bytes(32)
    engine = "letters-1"
    eos_token_ids = (0,)
    context_tokens = 64

    def __init__(self) -> None:
        self.token_bytes = [b"", *(letter.encode() for letter in LETTERS)]
        self.vocab_size = len(self.token_bytes)

    def encode(self, text):
        return [LETTERS.index(letter) + 1 for letter in text if letter in LETTERS]

    def encode_chat(self, messages):
        return [1, *self.encode("".join(message["content"] for message in messages))]


class ScriptedRelay:
    def __init__(self) -> None:
        self.asked = []
        self.open = 0
        self.vectors = True
        self.lent = []

    async def ask(self, request, prompt_tokens, user, *, shares):
        self.asked.append((request, prompt_tokens))
        self.lent.append(shares)
        assert user
        self.open += 1
        try:
            yield Started(bytes([len(self.asked)]) * 32, b"e" * 20, TINY.unit_price)
            if not hasattr(request, "choice"):
                if self.vectors:
                    yield VectorFrame(bytes(8))
            else:
                yield TextFrame("hi", (TokenLogprob(3, b"hi", -1_500_000, ((4, b"ho", -2_000_000),)),))
            yield EndFrame("stop", prompt_tokens, 2, bytes(32))
        finally:
            self.open -= 1


def make_gateway(tmp_path, operator: tuple[str, ...] = ()) -> tuple[NodeGateway, ScriptedRelay]:
    async def get(_model_id):
        return LetterModel()

    relay = ScriptedRelay()
    context = SimpleNamespace(params=TINY, peers=SimpleNamespace(name_of=lambda address: address[:1].decode()))
    host = SimpleNamespace(model_id="letters", get=get)
    return NodeGateway(context, host, {"letters": relay}, b"u" * 20, DoorKeys(operator, KeyRing(tmp_path))), relay


def make_chat(**options) -> ChatRequest:
    return ChatRequest(model="letters", messages=(ChatMessage(role="user", content="abc"),), **options)


def collect(events):
    async def read():
        return [event async for event in events]

    return asyncio.run(read())


def test_every_option_becomes_integers():
    asked = make_chat(
        temperature=0.7,
        top_p=0.5,
        presence_penalty=-1.5,
        frequency_penalty=0.25,
        logit_bias=((3, 2.5), (7, -100.0)),
        max_tokens=5,
        stop=("x",),
        seed=-4,
        top_logprobs=3,
        grammar=Grammar(kind="json_object"),
    )
    plan = plan_answers(LetterModel(), asked)
    (request,) = plan.requests
    assert (request.temperature_ppm, request.top_p_ppm) == (700_000, 500_000)
    assert (request.presence_ppm, request.frequency_ppm) == (-1_500_000, 250_000)
    assert request.bias == ((3, 2_500), (7, -100_000))
    assert (request.max_tokens, request.stop, request.user_seed, request.top_logprobs) == (5, ("x",), -4, 3)
    assert (request.grammar.kind, request.grammar.engine) == ("json_object", ENGINE)
    assert plan.prompt_tokens == 4


def test_choices_are_tasks_of_their_own():
    plan = plan_answers(LetterModel(), make_chat(n=3))
    assert [request.choice for request in plan.requests] == [0, 1, 2]
    assert len({request.compute_hash() for request in plan.requests}) == 3


@pytest.mark.parametrize(("prompt", "kind"), [("abc", TextPrompt), ((1, 2), TokenPrompt)])
def test_prompts(prompt, kind):
    plan = plan_answers(LetterModel(), CompletionRequest(model="letters", prompt=prompt))
    assert isinstance(plan.requests[0].prompt, kind)
    assert plan.requests[0].max_tokens == min(DEFAULT_MAX_TOKENS, 64 - plan.prompt_tokens)


def test_boundary_of_the_context():
    def ask(size, **options):
        return plan_answers(LetterModel(), CompletionRequest(model="letters", prompt="a" * size, **options))

    assert ask(63).requests[0].max_tokens == 1
    assert ask(60, max_tokens=4).prompt_tokens == 60
    for size, options, field in ((64, {}, "prompt"), (60, {"max_tokens": 5}, "max_tokens")):
        with pytest.raises(RequestRefused) as caught:
            ask(size, **options)
        assert (caught.value.field, caught.value.code) == (field, "context_length_exceeded")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"logit_bias": ((99, 1.0),)}, "logit_bias"),
        ({"stop": ("x" * 300,)}, "stop"),
        ({"grammar": Grammar(kind="json_schema", text='{"type": "nonsense"}')}, "response_format"),
    ],
)
def test_invalid_options_are_named(options, field):
    with pytest.raises(RequestRefused) as caught:
        plan_answers(LetterModel(), make_chat(**options))
    assert (caught.value.field, caught.value.code) == (field, "invalid_value")


def test_invalid_embedding_inputs():
    model = LetterModel()
    assert plan_embeddings(model, EmbedViewRequest(model="letters", inputs=("a" * 64,)))[0][1] == 64
    for given, code in (("a" * 65, "context_length_exceeded"), ((99,), "invalid_value"), ("", "invalid_value")):
        with pytest.raises(RequestRefused) as caught:
            plan_embeddings(model, EmbedViewRequest(model="letters", inputs=(given,)))
        assert (caught.value.field, caught.value.code) == ("input", code)


def test_answers_of_several_choices(tmp_path):
    gateway, relay = make_gateway(tmp_path)
    events = collect(gateway.chat(gateway.authenticate(None), make_chat(n=2, top_logprobs=1)))
    assert relay.open == 0
    for choice in range(2):
        start, delta, end = [event for event in events if event.choice == choice]
        assert isinstance(start, ChatStart)
        assert isinstance(delta, ChatDelta)
        assert isinstance(end, ChatEnd)
        assert start.task_id == end.task_id
        assert (delta.tokens[0].content, delta.tokens[0].logprob, delta.tokens[0].top) == (
            b"hi",
            -1.5,
            ((b"ho", -2.0),),
        )
        assert end.cost_nicoin == 6 * TINY.unit_price
    assert len({event.task_id for event in events if isinstance(event, ChatStart)}) == 2


def test_embeddings_stand_in_order(tmp_path):
    gateway, relay = make_gateway(tmp_path)
    asked = EmbedViewRequest(model="letters", inputs=("a", (1, 2)))
    found = asyncio.run(gateway.embed(gateway.authenticate(None), asked))
    assert (len(found.vectors), found.prompt_tokens) == (2, 3)
    assert [task.cost_nicoin for task in found.tasks] == [TINY.unit_price, 2 * TINY.unit_price]
    relay.vectors = False
    with pytest.raises(UpstreamFailed):
        asyncio.run(gateway.embed(gateway.authenticate(None), asked))
    assert relay.open == 0


def test_invalid_model(tmp_path):
    gateway, relay = make_gateway(tmp_path)
    with pytest.raises(UnknownModel):
        collect(gateway.complete(gateway.authenticate(None), CompletionRequest(model="other", prompt="a")))
    assert relay.asked == []


def test_who_may_ask(tmp_path):
    gateway, _ = make_gateway(tmp_path)
    assert gateway.authenticate("anything").key_id == "demo"
    assert gateway.find_account("demo").name == "demo"
    secret, made = KeyRing(tmp_path).add("alice", KeyLimits(tokens_per_day=5), 1)
    assert gateway.authenticate(secret).limits.tokens_per_day == 5
    assert gateway.find_account(made.key_id).name == "alice"
    for key in (None, "anything"):
        with pytest.raises(UnknownKey):
            gateway.authenticate(key)
    KeyRing(tmp_path).revoke("alice")
    for key_id in (made.key_id, "demo", "operator"):
        with pytest.raises(UnknownKey):
            gateway.find_account(key_id)


def test_the_operators_own_keys(tmp_path):
    gateway, _ = make_gateway(tmp_path, ("sk-own",))
    assert gateway.authenticate("sk-own").key_id == "operator"
    assert gateway.find_account("operator").name == "operator"
    for key in (None, "sk-other"):
        with pytest.raises(UnknownKey):
            gateway.authenticate(key)
    with pytest.raises(UnknownKey):
        gateway.find_account("demo")
