"""Answers of vLLM's OpenAI server: token ids in, steps out, many requests at once in one batch of the server.

Prompts go as token ids and tokens come back as ids with the plain model's logprobs; text is made here, as for every other
engine. It never sees hidden states. Invariant: a step's token is the one that the server's seeded sampler chose.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import httpx
import msgspec

from paceline.base.errors import WorkError
from paceline.base.integers import PPM
from paceline.inference.backend import VLLM_CPU, AnswerOptions, StepWriter, Token
from paceline.inference.run import TokenStep, check_serves, compute_token_limit
from paceline.inference.vllm_sampler import build_arguments
from paceline.models.language import LanguageModel
from paceline.node.backends.vllm_server import PARALLEL, Address, VllmServer
from paceline.protocol.transcripts import MAX_LOGPROB_LOSS_MICRONATS, GenerationRequest

SILENCE_SECONDS = 120.0
"""A server that says nothing for so long is given up on."""
CONNECT_SECONDS = 5.0
LOOK_SECONDS = 0.1
"""How often a request without tokens looks whether anybody still waits for it."""
STREAM_TOKENS = 4
"""Tokens in one event after the first: each event costs both processes more than the tokens in it do."""
_DATA = "data: "
_DONE = "[DONE]"
_ID_PREFIX = "token_id:"


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] = []


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    error: msgspec.Raw | None = None


class VllmBackend:
    """The server of this node as an engine. Construct it on the event loop that the server runs on."""

    engine = VLLM_CPU
    commits_states = False
    parallel = PARALLEL

    def __init__(self, server: VllmServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=PARALLEL)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False)

    def check_ready(self) -> None:
        """Errors: WorkError while the server starts, or starts again."""
        _ = self._server.address

    async def run(self) -> None:
        """Keep the server running. Errors: ConfigError when it cannot start. Effects: ends with everything it spawned."""
        try:
            await self._server.run()
        finally:
            await self._client.aclose()

    def generate(
        self, model: LanguageModel, request: GenerationRequest, options: AnswerOptions
    ) -> Generator[TokenStep, None, None]:
        """Answer on a thread that is not the event loop's; leaving the iterator closes the stream, which frees the row.

        Errors: WorkError when the server is not ready, refuses or breaks off.
        """
        check_serves(model, request, (self.engine,))
        if request.sampler.grammar is not None:
            raise WorkError(f"{self.engine} applies no grammars")
        address = self._server.address
        arrived: queue.SimpleQueue[list[Token] | WorkError | None] = queue.SimpleQueue()
        pump = asyncio.run_coroutine_threadsafe(
            self._pump(address, build_body(model, request, options.top_logprobs), arrived), self._loop
        )
        try:
            yield from _write_steps(StepWriter(model, request), arrived, options.should_stop)
        finally:
            pump.cancel()

    async def _pump(
        self, address: Address, body: dict[str, Any], arrived: queue.SimpleQueue[list[Token] | WorkError | None]
    ) -> None:
        try:
            async for tokens in self._stream(address, body):
                arrived.put(tokens)
            arrived.put(None)
        except httpx.HTTPError as problem:
            arrived.put(WorkError(f"the model server broke off: {type(problem).__name__} {problem}"))
        except (msgspec.DecodeError, WorkError) as problem:
            arrived.put(WorkError(f"the model server answered amiss: {problem}"))

    async def _stream(self, address: Address, body: dict[str, Any]) -> AsyncIterator[list[Token]]:
        headers = {"authorization": f"Bearer {address.key}"}
        async with self._client.stream("POST", f"{address.url}/v1/completions", json=body, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise WorkError(f"{response.status_code}: {(await response.aread())[:400].decode('utf-8', 'replace')}")
            async for line in response.aiter_lines():
                if line.startswith(_DATA) and not line.endswith(_DONE):
                    yield read_chunk(line.removeprefix(_DATA), body["logprobs"])


def build_body(model: LanguageModel, request: GenerationRequest, top_logprobs: int) -> dict[str, Any]:
    """The server's request: greedy to vLLM, our sampler in the extra arguments; stop strings are found by us."""
    return {
        "model": model.model_id,
        "prompt": list(request.prompt_tokens),
        "max_tokens": compute_token_limit(model, request),
        "temperature": 0,
        "logprobs": top_logprobs,
        "return_tokens_as_token_ids": True,
        "stop_token_ids": list(model.eos_token_ids),
        "stream": True,
        "stream_interval": STREAM_TOKENS,
        "return_token_ids": True,
        "vllm_xargs": build_arguments(request),
    }


def read_chunk(data: str, top_logprobs: int = 0) -> list[Token]:
    """Tokens of one event of the stream; it may hold several, or none.

    Errors: WorkError when the server reports an error or gives no logprob for a token; DecodeError.
    """
    chunk = msgspec.json.decode(data, type=_Chunk)
    if chunk.error is not None:
        raise WorkError(bytes(chunk.error)[:400].decode("utf-8", "replace"))
    tokens: list[Token] = []
    for choice in chunk.choices:
        ids, logprobs = choice.token_ids or [], choice.logprobs or _Logprobs([])
        tops = logprobs.top_logprobs if top_logprobs else [{}] * len(ids)
        if not len(ids) == len(logprobs.token_logprobs) == len(tops):
            raise WorkError(f"{len(ids)} tokens with {len(logprobs.token_logprobs)} logprobs")
        for token_id, nats, top in zip(ids, logprobs.token_logprobs, tops, strict=True):
            tokens.append(Token(token_id, _round(nats), _read_top(top, top_logprobs)))
    return tokens


def _read_top(top: dict[str, float], count: int) -> tuple[tuple[int, int], ...]:
    # The server adds the chosen token to the likeliest ones, wherever it stands.
    named = [(int(name.removeprefix(_ID_PREFIX)), _round(nats)) for name, nats in top.items()]
    return tuple(sorted(named, key=lambda pair: (-pair[1], pair[0]))[:count])


def _round(nats: float) -> int:
    return min(0, round(max(nats, -MAX_LOGPROB_LOSS_MICRONATS / PPM) * PPM))


def _write_steps(
    writer: StepWriter,
    arrived: queue.SimpleQueue[list[Token] | WorkError | None],
    should_stop: Callable[[], bool],
) -> Iterator[TokenStep]:
    while True:
        try:
            tokens = arrived.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if should_stop():
                return
            continue
        if tokens is None:
            raise WorkError("the model server ended the answer before its end")
        if isinstance(tokens, WorkError):
            raise tokens
        for token in tokens:
            step = writer.write(token, cancelled=should_stop())
            yield step
            if step.finish_reason:
                return
