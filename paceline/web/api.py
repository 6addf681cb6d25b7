"""The OpenAI-compatible API: which route is which, models, health.

Refuses to know: how an answer is made, paid or checked. Invariant: every route but health and the document asks for the key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from paceline.node.api.desk import ApiDesk
from paceline.node.views import Gateway, ModelView
from paceline.web.batch_routes import BatchRoutes
from paceline.web.batch_runner import BatchRunner
from paceline.web.chat_routes import ChatOperation
from paceline.web.embedding_routes import EmbeddingOperation
from paceline.web.entry import Entry, Operation, reply_json
from paceline.web.file_routes import FileRoutes
from paceline.web.openapi import build_document
from paceline.web.response_routes import ResponseOperation
from paceline.web.settings import WebSettings
from paceline.web.text_routes import TextOperation
from paceline.web.usage_routes import UsageRoutes

Handler = Callable[..., Awaitable[Response]]


class Api:
    """The routes over one gateway. `runner` answers batches while somebody runs it."""

    def __init__(self, gateway: Gateway, settings: WebSettings, desk: ApiDesk) -> None:
        self._gateway = gateway
        self._entry = entry = Entry(gateway, settings, desk)
        self._responses = ResponseOperation(entry)
        found: list[Operation] = [
            ChatOperation(entry),
            TextOperation(entry),
            EmbeddingOperation(entry),
            self._responses,
        ]
        self._operations = {operation.path: operation for operation in found}
        self.runner = BatchRunner(entry, self._operations)

    def build_router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        for path, handlers in self._list_routes().items():
            router.add_api_route(path, _make_door(handlers), methods=list(handlers))
        return router

    def _list_routes(self) -> dict[str, dict[str, Handler]]:
        files, batches = FileRoutes(self._entry), BatchRoutes(self._entry, self.runner)
        kept = self._responses
        return {
            "/health": {"GET": self.get_health},
            "/openapi.json": {"GET": self.get_document},
            "/v1/models": {"GET": self.get_models},
            "/v1/models/{model_id:path}": {"GET": self.get_model},
            **{path: {"POST": self._make_handler(operation)} for path, operation in self._operations.items()},
            "/v1/responses/{response_id}": {"GET": kept.get_response, "DELETE": kept.delete_response},
            "/v1/files": {"GET": files.list_files, "POST": files.add_file},
            "/v1/files/{file_id}": {"GET": files.get_file, "DELETE": files.delete_file},
            "/v1/files/{file_id}/content": {"GET": files.read_file},
            "/v1/batches": {"GET": batches.list_batches, "POST": batches.add_batch},
            "/v1/batches/{batch_id}": {"GET": batches.get_batch},
            "/v1/batches/{batch_id}/cancel": {"POST": batches.cancel_batch},
            "/v1/usage": {"GET": UsageRoutes(self._entry).get_usage},
        }

    async def get_health(self, _request: Request) -> Response:
        """Say that this node answers, and at which height."""
        return reply_json({"status": "ok", "height": self._gateway.status().height})

    async def get_document(self, _request: Request) -> Response:
        """Describe all this in OpenAPI."""
        return reply_json(build_document(tuple(model.model_id for model in self._gateway.models())))

    async def get_models(self, request: Request) -> Response:
        """List the models that requests may name."""
        self._entry.authenticate(request)
        return reply_json({"object": "list", "data": [_show_model(model) for model in self._gateway.models()]})

    async def get_model(self, request: Request, model_id: str) -> Response:
        """Describe one model. Errors: UnknownModel, answered as 404."""
        self._entry.authenticate(request)
        return reply_json(_show_model(self._entry.find_model(model_id)))

    def _make_handler(self, operation: Operation) -> Handler:
        async def answer(request: Request) -> Response:
            return await self._entry.handle(operation, request)

        return answer


def _make_door(handlers: dict[str, Handler]) -> Any:
    """One route for all methods of a path, so that the refusal of any other names them all."""

    async def answer(request: Request) -> Response:
        return await handlers[request.method](request, **request.path_params)

    return answer


def _show_model(model: ModelView) -> dict[str, Any]:
    return {
        "id": model.model_id,
        "object": "model",
        "created": model.created_unix_seconds,
        "owned_by": model.owner,
        "context_tokens": model.context_tokens,
        "precision": model.precision,
        "price_nicoin": model.price_nicoin,
        "hosts": list(model.hosts),
        "prompts_read_by": ["executor", "drawn checkers"],
    }
