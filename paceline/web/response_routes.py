"""/v1/responses: the newer way to ask, with answers that are kept to go on from.

Refuses to know: how an answer is made. Invariant: a kept answer is seen, gone on from and deleted only with the key that
asked for it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from paceline.base.errors import PacelineError
from paceline.node.views import Account, ChatDelta, ChatEnd, ChatEvent, ChatRequest, RequestRefused, UpstreamFailed
from paceline.web.chat_routes import JSON_HEADERS, read_first, refuse_stream_in_batch
from paceline.web.entry import Entry, Tally, Work, check_query, estimate_tokens, reply_json
from paceline.web.errors import get_api_error
from paceline.web.requests import check_limit
from paceline.web.response_objects import ResponseBuilder
from paceline.web.response_shapes import ResponseCall, ResponseItem, build_request, decode_response_call
from paceline.web.streams import EVENT_STREAM_HEADERS, end_reply, send_part, start_reply
from paceline.web.tool_reader import Reader, make_reader
from paceline.web.tools import ToolUse

ITEMS = msgspec.json.Decoder(tuple[ResponseItem, ...])


@dataclass(frozen=True, kw_only=True)
class _Ask:
    account: Account
    call: ResponseCall
    before: tuple[ResponseItem, ...]
    request: ChatRequest
    tools: ToolUse | None


class ResponseOperation:
    """Answers, keeps and shows responses."""

    path = "/v1/responses"

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._replies = entry.desk.replies

    def prepare(self, account: Account, body: bytes, *, in_batch: bool) -> Work:
        """Check a body. Errors: RequestRefused, UnknownModel."""
        call = decode_response_call(body)
        refuse_stream_in_batch(stream=call.stream, in_batch=in_batch)
        model = self._entry.find_model(call.values["model"])
        before = self._read_before(account, call)
        request, tools = build_request(call, before)
        check_limit(request.max_tokens, "max_output_tokens", model)
        ask = _Ask(account=account, call=call, before=before, request=request, tools=tools)
        return Work(
            model=model,
            prompt_tokens=estimate_tokens(sum(len(message.content) for message in request.messages)),
            answer_tokens=request.max_tokens,
            answers=1,
            serve=lambda send, tally: self._serve(ask, send, tally),
        )

    async def get_response(self, request: Request, response_id: str) -> Response:
        """Show a kept answer."""
        account = self._entry.authenticate(request)
        check_query(request, {})
        shown, _ = self._replies.get(account.key_id, response_id)
        return Response(shown, media_type="application/json")

    async def delete_response(self, request: Request, response_id: str) -> Response:
        """Forget a kept answer."""
        account = self._entry.authenticate(request)
        self._replies.delete(account.key_id, response_id)
        return reply_json({"id": response_id, "object": "response", "deleted": True})

    def _read_before(self, account: Account, call: ResponseCall) -> tuple[ResponseItem, ...]:
        if call.previous is None:
            return ()
        try:
            _, turns = self._replies.get(account.key_id, call.previous)
        except RequestRefused as error:
            raise RequestRefused("previous_response_id", "previous_response_not_found", error.message, 404) from None
        return ITEMS.decode(turns)

    async def _serve(self, ask: _Ask, send: Send, tally: Tally) -> None:
        async with aclosing(self._entry.gateway.chat(ask.account, ask.request)) as events:
            first = await read_first(events, tally)
            builder = ResponseBuilder(first, int(time.time()), ask.call.values)
            reader = make_reader(ask.tools)
            names = {"x-paceline-task": first.task_id, "x-paceline-executor": first.executor, **tally.headers}
            if ask.call.stream:
                await start_reply(send, {**EVENT_STREAM_HEADERS, **names})
                await send_part(send, builder.begin())
                await self._send_events(ask, events, builder, reader, send, tally)
                return
            async for event in events:
                tally.note(event)
                _take(builder, reader, event)
                if isinstance(event, ChatEnd):
                    self._keep(ask, builder, event)
                    await start_reply(send, {**JSON_HEADERS, **names})
                    await end_reply(send, msgspec.json.encode(builder.show_end(event)))
                    return
            raise UpstreamFailed("The answer broke off before its end.")

    async def _send_events(
        self,
        ask: _Ask,
        events: AsyncGenerator[ChatEvent, None],
        builder: ResponseBuilder,
        reader: Reader,
        send: Send,
        tally: Tally,
    ) -> None:
        try:
            async for event in events:
                tally.note(event)
                told = _take(builder, reader, event)
                if isinstance(event, ChatEnd):
                    self._keep(ask, builder, event)
                    return await end_reply(send, told)
                if told:
                    await send_part(send, told)
            raise UpstreamFailed("The answer broke off before its end.")
        except PacelineError as error:
            tally.failed = True
            await end_reply(send, builder.fail(get_api_error(error)))

    def _keep(self, ask: _Ask, builder: ResponseBuilder, end: ChatEnd) -> None:
        if not ask.call.keep:
            return
        made = ITEMS.decode(msgspec.json.encode(builder.items))
        turns = msgspec.json.encode([*ask.before, *ask.call.items, *made])
        shown = builder.show_end(end)
        self._replies.add(
            ask.account.key_id, shown["id"], msgspec.json.encode(shown), turns, int(self._entry.desk.now())
        )


def _take(builder: ResponseBuilder, reader: Reader, event: ChatEvent) -> bytes:
    told = b""
    if isinstance(event, ChatDelta):
        told += builder.add_tokens(event.tokens)
        told += b"".join(builder.add(piece) for piece in reader.feed(event.text))
    elif isinstance(event, ChatEnd):
        told += b"".join(builder.add(piece) for piece in reader.finish())
        told += builder.finish(event)
    return told
