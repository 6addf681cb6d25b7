"""POST /v1/chat/completions.

Refuses to know: how an answer is made, paid or checked. Invariant: a reply starts only when a node has taken the task;
what goes wrong before that is a status, what goes wrong after it an error event.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.types import Send

from paceline.base.errors import PacelineError
from paceline.node.views import Account, ChatDelta, ChatEnd, ChatEvent, ChatStart, UpstreamFailed
from paceline.web.completions import ChunkEncoder, CompletionHead, encode_completion, encode_last
from paceline.web.entry import Entry, Tally, Work, estimate_tokens
from paceline.web.errors import get_api_error
from paceline.web.fields import refuse_conflict
from paceline.web.gather import gather
from paceline.web.requests import ChatCall, check_limit, decode_chat_call
from paceline.web.streams import EVENT_STREAM_HEADERS, encode_data, end_reply, send_part, start_reply
from paceline.web.tool_reader import make_reader

Encoders = dict[int, ChunkEncoder]
JSON_HEADERS = {"content-type": "application/json"}


class ChatOperation:
    """Answers conversations, whole or streamed."""

    path = "/v1/chat/completions"

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def prepare(self, account: Account, body: bytes, *, in_batch: bool) -> Work:
        """Check a body. Errors: RequestRefused, UnknownModel."""
        call = decode_chat_call(body)
        refuse_stream_in_batch(stream=call.stream, in_batch=in_batch)
        request = call.request
        model = self._entry.find_model(request.model)
        check_limit(request.max_tokens, call.limit_field, model)
        return Work(
            model=model,
            prompt_tokens=estimate_tokens(sum(len(message.content) for message in request.messages)),
            answer_tokens=request.max_tokens,
            answers=request.n,
            serve=lambda send, tally: self._serve(account, call, send, tally),
        )

    async def _serve(self, account: Account, call: ChatCall, send: Send, tally: Tally) -> None:
        async with aclosing(self._entry.gateway.chat(account, call.request)) as events:
            if call.stream:
                await _serve_stream(events, call, send, tally)
                return
            answers = await gather(events, tally, call.request.n, call.tools)
            head = CompletionHead(start=answers[0].start, created=int(time.time()))
            body = encode_completion(head, answers, with_logprobs=call.request.top_logprobs is not None)
            await start_reply(send, {**JSON_HEADERS, **head.to_headers(), **tally.headers})
            await end_reply(send, body)


async def _serve_stream(events: AsyncGenerator[ChatEvent, None], call: ChatCall, send: Send, tally: Tally) -> None:
    first = await read_first(events, tally)
    head = CompletionHead(start=first, created=int(time.time()))
    encoders: Encoders = {}

    def encode(event: ChatEvent) -> bytes:
        if isinstance(event, ChatStart):
            reader = make_reader(call.tools)
            encoders[event.choice] = ChunkEncoder(head, event, reader, include_usage=call.include_usage)
            return encoders[event.choice].encode_role()
        encoder = encoders[event.choice]
        return encoder.encode_delta(event) if isinstance(event, ChatDelta) else encoder.encode_end(event)

    def close(ends: list[ChatEnd]) -> bytes:
        return encode_last(head, "chat.completion.chunk", ends, include_usage=call.include_usage)

    await start_reply(send, {**EVENT_STREAM_HEADERS, **head.to_headers(), **tally.headers})
    await send_part(send, encode(first))
    await send_events(events, send, tally, Codec(encode, close, call.request.n))


class Codec:
    """How the events of one stream become bytes, and how many choices it has."""

    def __init__(
        self, encode: Callable[[ChatEvent], bytes], close: Callable[[list[ChatEnd]], bytes], choices: int
    ) -> None:
        self.encode = encode
        self.close = close
        self.choices = choices


async def send_events(events: AsyncGenerator[ChatEvent, None], send: Send, tally: Tally, codec: Codec) -> None:
    """Send the events that follow the first, and end the reply, with an error event if need be."""
    ends: list[ChatEnd] = []
    try:
        async for event in events:
            tally.note(event)
            body = codec.encode(event)
            if isinstance(event, ChatEnd):
                ends.append(event)
            if len(ends) == codec.choices:
                return await end_reply(send, body + codec.close(ends))
            if body:
                await send_part(send, body)
        raise UpstreamFailed("The answer broke off before its end.")
    except PacelineError as error:
        tally.failed = True
        await end_reply(send, encode_data(get_api_error(error).encode()))


async def read_first(events: AsyncGenerator[ChatEvent, None], tally: Tally) -> ChatStart:
    """Wait until a node has taken the task. Errors: those of the gateway; UpstreamFailed when none did."""
    first = await anext(events, None)
    if not isinstance(first, ChatStart):
        raise UpstreamFailed("No node took the task.")
    tally.note(first)
    return first


def refuse_stream_in_batch(*, stream: bool, in_batch: bool) -> None:
    """Errors: RequestRefused when a line of a batch asks for a stream."""
    if stream and in_batch:
        raise refuse_conflict("stream", "A line of a batch cannot be streamed.")
