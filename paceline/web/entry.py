"""The door that every route of the API goes through: key, body, model, limits, repeats.

Refuses to know: what a route does. Invariant: the gateway sees a request only after the key, the whole body and the model
have been found good and the key's limits have room, so a refused request costs nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Send

from paceline.base.hashing import hash_parts
from paceline.node.api.desk import ApiDesk
from paceline.node.api.replies import Repeat
from paceline.node.api.usage import Estimate, Spent
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
)
from paceline.web.settings import WebSettings
from paceline.web.streams import LiveResponse

# A client that is told of its too large body must still be writing it; that much is read and thrown away first.
DISCARD_FACTOR = 16
MAX_KEY_CHARS = 256
IDEMPOTENCY_PATTERN = f"[!-~]{{1,{MAX_KEY_CHARS}}}"
SHARING_HEADER = "x-paceline-share-prompt"
MAX_REPEAT_BYTES = 16 << 20
DEFAULT_TOKENS = 1_024
CHARS_PER_TOKEN = 3
OK = 200


@dataclass(kw_only=True)
class Tally:
    """What one request used, counted as its events pass. `prompt_tokens` is the estimate for choices that break off."""

    prompt_tokens: int
    price_nicoin: int
    headers: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    _spent: Spent = field(default_factory=Spent, init=False)
    _open: dict[int, int] = field(default_factory=dict, init=False)

    def note(self, event: ChatEvent) -> None:
        """Count one event."""
        if isinstance(event, ChatStart):
            self._open[event.choice] = 0
        elif isinstance(event, ChatDelta):
            self._open[event.choice] = self._open.get(event.choice, 0) + max(1, len(event.tokens))
        elif isinstance(event, ChatEnd):
            self._open.pop(event.choice, None)
            self.add(event.prompt_tokens, event.completion_tokens, event.cost_nicoin)

    def add(self, prompt_tokens: int, completion_tokens: int, cost_nicoin: int) -> None:
        """Count one finished task."""
        spent = self._spent
        self._spent = Spent(
            requests=1,
            prompt_tokens=spent.prompt_tokens + prompt_tokens,
            completion_tokens=spent.completion_tokens + completion_tokens,
            cost_nicoin=spent.cost_nicoin + cost_nicoin,
        )

    def close(self) -> Spent:
        """Return the sum. A choice that broke off counts what was seen of it: leaving early is no way around a limit."""
        for written in self._open.values():
            self.add(self.prompt_tokens, written, (self.prompt_tokens + written) * self.price_nicoin)
        self._open.clear()
        return self._spent


@dataclass(frozen=True, kw_only=True)
class Work:
    """One good request. `prompt_tokens` is an estimate for one answer, `answer_tokens` the limit of one, None if not given."""

    model: ModelView
    prompt_tokens: int
    answer_tokens: int | None
    answers: int
    serve: Callable[[Send, Tally], Coroutine[None, None, None]]

    def to_estimate(self, *, in_batch: bool) -> Estimate:
        """Return the most that all answers together may use."""
        room = self.model.context_tokens or DEFAULT_TOKENS
        written = self.answer_tokens if self.answer_tokens is not None else min(room, DEFAULT_TOKENS)
        return Estimate(
            model=self.model.model_id,
            tokens=self.answers * (self.prompt_tokens + written),
            price_nicoin=self.model.price_nicoin,
            counts_as_request=not in_batch,
        )


class Operation(Protocol):
    """A route whose requests are paid for, alone or as lines of a batch."""

    path: str

    def prepare(self, account: Account, body: bytes, *, in_batch: bool) -> Work:
        """Check a body. Errors: RequestRefused, UnknownModel."""


class Entry:
    """What all routes share."""

    def __init__(self, gateway: Gateway, settings: WebSettings, desk: ApiDesk) -> None:
        self.gateway = gateway
        self.settings = settings
        self.desk = desk
        self._underway: dict[tuple[str, str], bytes] = {}

    def authenticate(self, request: Request) -> Account:
        """Return whose request it is. Errors: UnknownKey."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme and (scheme.lower() != "bearer" or not key.strip()):
            raise UnknownKey("The authorization header must read 'Bearer KEY'.")
        if not scheme and self.settings.api_keys_required:
            raise UnknownKey("This network asks for an API key: send the header 'Authorization: Bearer KEY'.")
        return self.gateway.authenticate(key.strip() or None)

    def find_model(self, model_id: str) -> ModelView:
        """Return a model by its id. Errors: UnknownModel."""
        for model in self.gateway.models():
            if model.model_id == model_id:
                return model
        raise UnknownModel(model_id)

    async def read_json(self, request: Request) -> bytes:
        """Return the body of a request that says it is JSON. Errors: RequestRefused."""
        check_content_type(request, "application/json")
        return await self.read_body(request, self.settings.body_limit_bytes)

    async def read_body(self, request: Request, limit_bytes: int) -> bytes:
        """Return the body. Errors: RequestRefused when it is too large or does not arrive."""
        try:
            async with asyncio.timeout(self.settings.body_timeout_seconds):
                return await _read_up_to(request, limit_bytes)
        except TimeoutError as error:
            message = f"The body did not arrive within {self.settings.body_timeout_seconds} seconds."
            raise RequestRefused(None, "request_timeout", message, 408) from error

    async def handle(self, operation: Operation, request: Request) -> Response:
        """Answer a paid request, or repeat the answer that its idempotency key stands for."""
        account = replace(self.authenticate(request), shares_prompts=_read_sharing(request))
        body = await self.read_json(request)
        key = _read_idempotency_key(request)
        if key is None:
            work = operation.prepare(account, body, in_batch=False)
            return LiveResponse(lambda send: self._run_alone(account, work, send))
        digest = hash_parts("api-repeat", operation.path.encode(), body)
        kept = self._find_repeat(account, key, digest)
        if kept is not None:
            return _repeat(kept)
        work = operation.prepare(account, body, in_batch=False)
        return LiveResponse(lambda send: self._run_once(account, work, send, (key, digest)))

    async def run(self, account: Account, work: Work, send: Send, *, in_batch: bool = False) -> Tally:
        """Do the work within the key's limits. Errors: KeyForbidden, KeyLimited, those of the work."""
        lease = self.desk.meter.admit(account, work.to_estimate(in_batch=in_batch))
        tally = Tally(
            prompt_tokens=work.prompt_tokens, price_nicoin=work.model.price_nicoin, headers=dict(lease.headers)
        )
        try:
            await work.serve(send, tally)
        finally:
            lease.settle(tally.close())
        return tally

    def _find_repeat(self, account: Account, key: str, digest: bytes) -> Repeat | None:
        kept = self.desk.replies.get_repeat(account.key_id, key, int(self.desk.now()))
        known = kept.digest if kept is not None else self._underway.get((account.key_id, key))
        if known is not None and known != digest:
            text = "This idempotency key stands for another request; use a new one."
            raise RequestRefused(None, "idempotency_key_reused", text, 422)
        if kept is None and known is not None:
            text = "The request under this idempotency key is still being answered."
            raise RequestRefused(None, "idempotency_key_in_use", text, 409)
        return kept

    async def _run_alone(self, account: Account, work: Work, send: Send) -> None:
        await self.run(account, work, send)

    async def _run_once(self, account: Account, work: Work, send: Send, mark: tuple[str, bytes]) -> None:
        key, digest = mark
        place = (account.key_id, key)
        # The first request may have ended since this one looked: its body was read and checked meanwhile.
        kept = self._find_repeat(account, key, digest)
        if kept is not None:
            await _repeat(kept)({"type": "http"}, _receive_nothing, send)
            return
        self._underway[place] = digest
        recorder = Recorder(send, MAX_REPEAT_BYTES)
        try:
            tally = await self.run(account, work, recorder)
            if recorder.is_whole and not tally.failed:
                kept = Repeat(digest=digest, headers=recorder.headers, body=bytes(recorder.body))
                self.desk.replies.add_repeat(account.key_id, key, kept, int(self.desk.now()))
        finally:
            del self._underway[place]


def _repeat(kept: Repeat) -> Response:
    return Response(kept.body, OK, {**kept.headers, "x-paceline-repeated": "true"})


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}


class Recorder:
    """Passes a reply on, if there is a reader, and keeps it up to a size."""

    def __init__(self, send: Send | None = None, limit_bytes: int | None = None) -> None:
        self._send = send
        self._limit_bytes = limit_bytes
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.is_whole = False

    async def __call__(self, message: Message) -> None:
        """Take one message of the server's protocol."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            # What was left of a limit then is not what is left now.
            self.headers = {name: value for name, value in pairs if not name.startswith("x-ratelimit-")}
        else:
            self.body += message.get("body", b"")
            small = self._limit_bytes is None or len(self.body) <= self._limit_bytes
            self.is_whole = self.status == OK and small and not message.get("more_body", False)
            if not small:
                self.body.clear()
                self._limit_bytes = -1
        if self._send is not None:
            await self._send(message)


def check_content_type(request: Request, wanted: str) -> str:
    """Refuse what a foreign page could post without asking, and return the header.

    A browser sends plain forms to any local port; a form with files therefore needs a key, see the route of files.
    """
    header = request.headers.get("content-type", "")
    if header.partition(";")[0].strip().lower() != wanted:
        message = f"Send the body with the header 'Content-Type: {wanted}'."
        raise RequestRefused(None, "unsupported_media_type", message, 415)
    return header


def check_query(request: Request, allowed: Mapping[str, str]) -> dict[str, str]:
    """Return the query of a request; `allowed` names every parameter with its default.

    Errors: RequestRefused for any other, or one that comes twice.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed or name in found:
            code = "unknown_parameter" if name not in allowed else "invalid_value"
            raise RequestRefused(
                name[:MAX_KEY_CHARS], code, f"{name[:MAX_KEY_CHARS]} is not a parameter here, or comes twice."
            )
        found[name] = value
    return {**allowed, **found}


def estimate_tokens(text_chars: int) -> int:
    """Guess how many tokens a text has; the node's own count is what is paid."""
    return text_chars // CHARS_PER_TOKEN + 1


def reply_json(value: object, headers: Mapping[str, str] | None = None) -> Response:
    """Build a reply."""
    return Response(msgspec.json.encode(value), OK, dict(headers or {}), "application/json")


def _read_sharing(request: Request) -> bool:
    given = request.headers.get(SHARING_HEADER)
    if given not in (None, "yes", "no"):
        raise RequestRefused(SHARING_HEADER, "invalid_value", f"{SHARING_HEADER} must be yes or no.")
    return given == "yes"


def _read_idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(IDEMPOTENCY_PATTERN, key):
        text = f"idempotency-key must be 1 to {MAX_KEY_CHARS} printable ASCII characters without spaces."
        raise RequestRefused("idempotency-key", "invalid_value", text)
    return key


async def _read_up_to(request: Request, limit: int) -> bytes:
    body, size_bytes = bytearray(), 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes <= limit:
            body += part
        elif size_bytes > limit * DISCARD_FACTOR:
            break
    if size_bytes > limit:
        raise RequestRefused(None, "body_too_large", f"The body is larger than {limit} bytes.", 413)
    return bytes(body)
