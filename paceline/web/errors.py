"""Every refusal in the one shape that OpenAI clients read: `{"error": {message, type, param, code}}`.

Refuses to know: what was asked. Invariant: all four keys are always there, and an error that is not ours
tells the client nothing about our inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from paceline.base.errors import PacelineError, TransportError, WorkError
from paceline.node.views import (
    Busy,
    OutOfFunds,
    RequestRefused,
    UnknownKey,
    UnknownModel,
    UpstreamFailed,
)

# Official clients repeat a POST on 429 and 5xx; where a repeat cannot help or could be paid twice we say so.
NO_RETRY = {"x-should-retry": "false"}
# With these a part of the body is still on its way, so the connection cannot carry another request.
UNREAD_STATUSES = frozenset({408, 413})
CLOSE = {"connection": "close"}
CLIENT_GONE_STATUS = 499
HTTP_CODES = {404: "unknown_url", 405: "method_not_allowed"}


@dataclass(frozen=True, kw_only=True)
class ApiError:
    """One refusal: the status line and the four keys."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode the error object as JSON."""
        inner = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": inner})

    def to_response(self) -> Response:
        """Build the reply."""
        return Response(self.encode(), self.status, dict(self.headers), "application/json")


INTERNAL_ERROR = ApiError(
    status=500,
    message="This node failed to handle the request; its log says why.",
    kind="server_error",
    code="internal_error",
    headers=NO_RETRY,
)


def get_api_error(error: PacelineError) -> ApiError:
    """Return how an error of ours is told to a client."""
    text = str(error)
    match error:
        case RequestRefused():
            headers = CLOSE if error.status in UNREAD_STATUSES else {}
            told = ApiError(
                status=error.status, message=error.message, param=error.field, code=error.code, headers=headers
            )
        case UnknownModel():
            told = ApiError(status=404, message=text, param="model", code="model_not_found")
        case UnknownKey():
            told = ApiError(status=401, message=text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        case OutOfFunds():
            code = "insufficient_quota"
            told = ApiError(status=429, message=text, kind=code, code=code, headers=NO_RETRY)
        case Busy():
            retry = {"retry-after": str(error.retry_after_seconds)}
            told = ApiError(status=429, message=text, kind="rate_limit_error", code="busy", headers=retry)
        case UpstreamFailed() | TransportError() | WorkError():
            told = ApiError(status=502, message=text, kind="server_error", code="upstream_failed", headers=NO_RETRY)
        case _:
            told = INTERNAL_ERROR
    return told


def add_error_handlers(app: FastAPI) -> None:
    """Make every refusal of this application take the one shape."""
    app.add_exception_handler(PacelineError, _on_paceline_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)


async def _on_paceline_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PacelineError), "registered for this family only"
    return get_api_error(error).to_response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this family only"
    message = f"{error.detail}: {request.method} {request.url.path[:200]}"
    code = HTTP_CODES.get(error.status_code, "http_error")
    return ApiError(status=error.status_code, message=message, code=code, headers=error.headers or {}).to_response()


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE_STATUS)
