"""POST /v1/completions: bare texts, or token ids, that the model goes on from.

Refuses to know: how an answer is made. Invariant: choice number = number of the prompt times n plus number of the answer,
whole and streamed alike.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.types import Send

from paceline.node.answers.choices import merge_streams
from paceline.node.views import (
    Account,
    ChatEnd,
    ChatEvent,
    ChatStart,
    CompletionRequest,
    TokenView,
)
from paceline.web.chat_routes import JSON_HEADERS, Codec, read_first, refuse_stream_in_batch, send_events
from paceline.web.completions import CompletionHead, encode_last
from paceline.web.entry import Entry, Tally, Work, estimate_tokens
from paceline.web.fields import BodyShape, refuse_conflict
from paceline.web.gather import gather, get_receipt, get_receipts, get_usage
from paceline.web.requests import check_limit, read_sampling, read_streaming
from paceline.web.shapes import MAX_CHOICES, MAX_TOP_LOGPROBS, SAMPLING, TokenId, Tokens
from paceline.web.streams import EVENT_STREAM_HEADERS, encode_data, end_reply, start_reply

DEFAULT_ANSWER_TOKENS = 16
MAX_PROMPTS = 64
MAX_PROMPT_TOKENS = 2**17
KIND = "text_completion"

TokenPrompt = Annotated[list[TokenId], Meta(min_length=1, max_length=MAX_PROMPT_TOKENS)]
TextPrompt = Annotated[str, Meta(min_length=1)]
# A list of numbers is one prompt, a list of lists or of strings is several.
Prompts = (
    TextPrompt | Annotated[list[TextPrompt | TokenPrompt | TokenId], Meta(min_length=1, max_length=MAX_PROMPT_TOKENS)]
)

TEXT_SHAPE = BodyShape(
    "CompletionRequest",
    {
        **SAMPLING,
        "prompt": Prompts,
        "max_tokens": Tokens | None,
        "logprobs": Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None,
    },
    required=("model", "prompt"),
    calm={"best_of": (None, 1), "echo": (None, False), "suffix": (None, "")},
)


@dataclass(frozen=True, kw_only=True)
class TextCall:
    """One request for each prompt, and how the answers shall be sent."""

    requests: tuple[CompletionRequest, ...]
    stream: bool
    include_usage: bool

    @property
    def choices(self) -> int:
        """How many answers there will be."""
        return len(self.requests) * self.requests[0].n


def decode_text_call(body: bytes) -> TextCall:
    """Decode the body of POST /v1/completions.

    Errors: RequestRefused naming the field.
    """
    values = TEXT_SHAPE.decode(body)
    stream, include_usage = read_streaming(values)
    limit = values.get("max_tokens")
    first = CompletionRequest(
        **read_sampling(values),
        prompt="",
        max_tokens=DEFAULT_ANSWER_TOKENS if limit is None else limit,
        top_logprobs=values.get("logprobs"),
    )
    prompts = split_prompts(values["prompt"], "prompt")
    if len(prompts) * first.n > MAX_CHOICES:
        text = f"{len(prompts)} prompts with n={first.n} are more than {MAX_CHOICES} answers; send them in several requests."
        raise refuse_conflict("n", text)
    requests = tuple(replace(first, prompt=prompt) for prompt in prompts)
    return TextCall(requests=requests, stream=stream, include_usage=include_usage)


def split_prompts(given: str | list[Any], field: str) -> list[str | tuple[int, ...]]:
    """Return one text or tuple of token ids for each prompt.

    Errors: RequestRefused when numbers stand beside texts, or there are too many.
    """
    if isinstance(given, str):
        return [given]
    if all(isinstance(part, int) for part in given):
        return [tuple(given)]
    if any(isinstance(part, int) for part in given):
        raise refuse_conflict(
            field, f"{field} holds numbers beside texts or lists; a list of token ids holds numbers only."
        )
    if len(given) > MAX_PROMPTS:
        raise refuse_conflict(field, f"{field} holds {len(given)} entries, at most {MAX_PROMPTS} go into one request.")
    return [part if isinstance(part, str) else tuple(part) for part in given]


def estimate_prompt(prompt: str | tuple[int, ...]) -> int:
    """Guess the tokens of a prompt; of token ids there is nothing to guess."""
    return estimate_tokens(len(prompt)) if isinstance(prompt, str) else len(prompt)


class TextOperation:
    """Goes on from bare texts."""

    path = "/v1/completions"

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def prepare(self, account: Account, body: bytes, *, in_batch: bool) -> Work:
        """Check a body. Errors: RequestRefused, UnknownModel."""
        call = decode_text_call(body)
        refuse_stream_in_batch(stream=call.stream, in_batch=in_batch)
        first = call.requests[0]
        model = self._entry.find_model(first.model)
        check_limit(first.max_tokens, "max_tokens", model)
        return Work(
            model=model,
            prompt_tokens=max(estimate_prompt(request.prompt) for request in call.requests),
            answer_tokens=first.max_tokens,
            answers=call.choices,
            serve=lambda send, tally: self._serve(account, call, send, tally),
        )

    async def _serve(self, account: Account, call: TextCall, send: Send, tally: Tally) -> None:
        sources = [self._ask(account, request, number) for number, request in enumerate(call.requests)]
        async with aclosing(sources[0] if len(sources) == 1 else merge_streams(sources)) as events:
            if call.stream:
                await _serve_stream(events, call, send, tally)
                return
            answers = await gather(events, tally, call.choices)
            head = CompletionHead(start=answers[0].start, created=int(time.time()), prefix="cmpl")
            with_logprobs = call.requests[0].top_logprobs is not None
            choices = [
                _show_choice(
                    answer.start.choice,
                    answer.text,
                    show_legacy_logprobs(answer.tokens, 0) if with_logprobs else None,
                    answer.finish_reason,
                )
                for answer in answers
            ]
            usage = get_usage([answer.end for answer in answers if answer.end is not None])
            fields = {**head.to_fields(KIND), "choices": choices, "usage": usage, "paceline": get_receipts(answers)}
            await start_reply(send, {**JSON_HEADERS, **head.to_headers(), **tally.headers})
            await end_reply(send, msgspec.json.encode(fields))

    async def _ask(self, account: Account, request: CompletionRequest, number: int) -> AsyncGenerator[ChatEvent, None]:
        async with aclosing(self._entry.gateway.complete(account, request)) as events:
            async for event in events:
                yield replace(event, choice=number * request.n + event.choice)


async def _serve_stream(events: AsyncGenerator[ChatEvent, None], call: TextCall, send: Send, tally: Tally) -> None:
    first = await read_first(events, tally)
    head = CompletionHead(start=first, created=int(time.time()), prefix="cmpl")
    starts, offsets = {first.choice: first}, {first.choice: 0}
    shared: dict[str, Any] = {"usage": None} if call.include_usage else {}
    with_logprobs = call.requests[0].top_logprobs is not None

    def encode(event: ChatEvent) -> bytes:
        if isinstance(event, ChatStart):
            starts[event.choice], offsets[event.choice] = event, 0
            return b""
        fields = {**head.to_fields(KIND), **shared}
        if isinstance(event, ChatEnd):
            choice = _show_choice(event.choice, "", None, event.finish_reason)
            receipt = get_receipt(starts[event.choice], event)
            return encode_data(msgspec.json.encode({**fields, "choices": [choice], "paceline": receipt}))
        shown = show_legacy_logprobs(event.tokens, offsets[event.choice]) if with_logprobs and event.tokens else None
        offsets[event.choice] += len(event.text)
        return encode_data(
            msgspec.json.encode({**fields, "choices": [_show_choice(event.choice, event.text, shown, None)]})
        )

    def close(ends: list[ChatEnd]) -> bytes:
        return encode_last(head, KIND, ends, include_usage=call.include_usage)

    await start_reply(send, {**EVENT_STREAM_HEADERS, **head.to_headers(), **tally.headers})
    await send_events(events, send, tally, Codec(encode, close, call.choices))


def show_legacy_logprobs(tokens: list[TokenView] | tuple[TokenView, ...], offset: int) -> dict[str, Any]:
    """Return tokens in the columns of this older route. Units: offsets in characters of the answer's text."""
    texts = [token.content.decode("utf-8", "replace") for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {content.decode("utf-8", "replace"): logprob for content, logprob in token.top} for token in tokens
        ],
        "text_offset": offsets,
    }


def _show_choice(index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
