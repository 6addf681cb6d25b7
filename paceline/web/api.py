"""The OpenAI-compatible routes: models, chat completions, health.

Refuses to know: how an answer is made, paid or checked. Invariant: the gateway sees a chat only after the key,
the whole body and the model have been found good, so a refused request costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from paceline.base.errors import PacelineError
from paceline.node.views import (
    Account,
    ChatDelta,
    ChatEnd,
    ChatEvent,
    ChatStart,
    Gateway,
    ModelView,
    RequestRefused,
    UnknownKey,
    UnknownModel,
    UpstreamFailed,
)
from paceline.web.completions import ChunkEncoder, CompletionHead, encode_completion
from paceline.web.errors import get_api_error
from paceline.web.requests import ChatCall, check_limit, decode_chat_call
from paceline.web.settings import WebSettings
from paceline.web.streams import EVENT_STREAM_HEADERS, LiveResponse, encode_data, end_reply, send_part, start_reply

# A client that is told of its too large body must still be writing it; that much is read and thrown away first.
DISCARD_FACTOR = 16


class Api:
    """The routes over one gateway."""

    def __init__(self, gateway: Gateway, settings: WebSettings) -> None:
        self._gateway = gateway
        self._settings = settings

    def build_router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/health", self.get_health, methods=["GET"])
        router.add_api_route("/v1/models", self.get_models, methods=["GET"])
        router.add_api_route("/v1/models/{model_id:path}", self.get_model, methods=["GET"])
        router.add_api_route("/v1/chat/completions", self.request_chat, methods=["POST"])
        return router

    async def get_health(self) -> Response:
        """Say that this node answers, and at which height."""
        return _reply_json({"status": "ok", "height": self._gateway.status().height})

    async def get_models(self, request: Request) -> Response:
        """List the models that a chat may name."""
        self._authenticate(request)
        return _reply_json({"object": "list", "data": [_show_model(model) for model in self._gateway.models()]})

    async def get_model(self, request: Request, model_id: str) -> Response:
        """Describe one model. Errors: UnknownModel, answered as 404."""
        self._authenticate(request)
        return _reply_json(_show_model(self._find_model(model_id)))

    async def request_chat(self, request: Request) -> Response:
        """Answer a conversation, whole or streamed."""
        account = self._authenticate(request)
        _check_content_type(request)
        call = decode_chat_call(await _read_body(request, self._settings))
        check_limit(call, self._find_model(call.request.model))
        return LiveResponse(lambda send: self._serve_chat(account, call, send))

    async def _serve_chat(self, account: Account, call: ChatCall, send: Send) -> None:
        async with aclosing(self._gateway.chat(account, call.request)) as events:
            start = await anext(events, None)
            if not isinstance(start, ChatStart):
                raise UpstreamFailed("No node took the task.")
            head = CompletionHead(start=start, created=int(time.time()))
            if call.stream:
                await _send_stream(events, ChunkEncoder(head, include_usage=call.include_usage), head, send)
            else:
                await _send_whole(events, head, send)

    def _authenticate(self, request: Request) -> Account:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme and (scheme.lower() != "bearer" or not key.strip()):
            raise UnknownKey("The authorization header must read 'Bearer KEY'.")
        if not scheme and self._settings.api_keys_required:
            raise UnknownKey("This network asks for an API key: send the header 'Authorization: Bearer KEY'.")
        return self._gateway.authenticate(key.strip() or None)

    def _find_model(self, model_id: str) -> ModelView:
        for model in self._gateway.models():
            if model.model_id == model_id:
                return model
        raise UnknownModel(model_id)


async def _send_whole(events: AsyncGenerator[ChatEvent, None], head: CompletionHead, send: Send) -> None:
    texts: list[str] = []
    async for event in events:
        if isinstance(event, ChatDelta):
            texts.append(event.text)
        elif isinstance(event, ChatEnd):
            await start_reply(send, {"content-type": "application/json", **head.to_headers()})
            return await end_reply(send, encode_completion(head, "".join(texts), event))
    raise UpstreamFailed("The answer broke off before its end.")


async def _send_stream(
    events: AsyncGenerator[ChatEvent, None], encoder: ChunkEncoder, head: CompletionHead, send: Send
) -> None:
    await start_reply(send, {**EVENT_STREAM_HEADERS, **head.to_headers()})
    await send_part(send, encoder.encode_role())
    try:
        async for event in events:
            if isinstance(event, ChatEnd):
                return await end_reply(send, encoder.encode_end(event))
            if isinstance(event, ChatDelta) and event.text:
                await send_part(send, encoder.encode_text(event.text))
        raise UpstreamFailed("The answer broke off before its end.")
    except PacelineError as error:
        await end_reply(send, encode_data(get_api_error(error).encode()))


def _check_content_type(request: Request) -> None:
    """Refuse what a foreign page could post without asking: a browser sends plain forms to any local port."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = "Send the body with the header 'Content-Type: application/json'."
        raise RequestRefused(None, "unsupported_media_type", message, 415)


async def _read_body(request: Request, settings: WebSettings) -> bytes:
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            return await _read_up_to(request, settings.body_limit_bytes)
    except TimeoutError as error:
        message = f"The body did not arrive within {settings.body_timeout_seconds} seconds."
        raise RequestRefused(None, "request_timeout", message, 408) from error


async def _read_up_to(request: Request, limit_bytes: int) -> bytes:
    body, size_bytes = bytearray(), 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes <= limit_bytes:
            body += part
        elif size_bytes > limit_bytes * DISCARD_FACTOR:
            break
    if size_bytes > limit_bytes:
        raise RequestRefused(None, "body_too_large", f"The body is larger than {limit_bytes} bytes.", 413)
    return bytes(body)


def _show_model(model: ModelView) -> dict[str, Any]:
    return {
        "id": model.model_id,
        "object": "model",
        "created": model.created_unix_seconds,
        "owned_by": model.owner,
        "context_tokens": model.context_tokens,
        "price_nicoin": model.price_nicoin,
        "precision": model.precision,
        "hosts": list(model.hosts),
    }


def _reply_json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
