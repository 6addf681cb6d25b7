"""The OpenAI-compatible API: which route is which, models, health.

Refuses to know: how an answer is made, paid or checked. Invariant: every route but health and the document asks for the key.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from paceline.node.api_desk import ApiDesk
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
        router.add_api_route("/health", self.get_health, methods=["GET"])
        router.add_api_route("/openapi.json", self.get_document, methods=["GET"])
        router.add_api_route("/v1/models", self.get_models, methods=["GET"])
        router.add_api_route("/v1/models/{model_id:path}", self.get_model, methods=["GET"])
        for path, operation in self._operations.items():
            router.add_api_route(path, self._make_handler(operation), methods=["POST"])
        router.add_api_route("/v1/responses/{response_id}", self._responses.get_response, methods=["GET"])
        router.add_api_route("/v1/responses/{response_id}", self._responses.delete_response, methods=["DELETE"])
        files, batches = FileRoutes(self._entry), BatchRoutes(self._entry, self.runner)
        router.add_api_route("/v1/files", files.add_file, methods=["POST"])
        router.add_api_route("/v1/files", files.list_files, methods=["GET"])
        router.add_api_route("/v1/files/{file_id}", files.get_file, methods=["GET"])
        router.add_api_route("/v1/files/{file_id}", files.delete_file, methods=["DELETE"])
        router.add_api_route("/v1/files/{file_id}/content", files.read_file, methods=["GET"])
        router.add_api_route("/v1/batches", batches.add_batch, methods=["POST"])
        router.add_api_route("/v1/batches", batches.list_batches, methods=["GET"])
        router.add_api_route("/v1/batches/{batch_id}", batches.get_batch, methods=["GET"])
        router.add_api_route("/v1/batches/{batch_id}/cancel", batches.cancel_batch, methods=["POST"])
        router.add_api_route("/v1/usage", UsageRoutes(self._entry).get_usage, methods=["GET"])
        return router

    async def get_health(self) -> Response:
        """Say that this node answers, and at which height."""
        return reply_json({"status": "ok", "height": self._gateway.status().height})

    async def get_document(self) -> Response:
        """Describe all this in OpenAPI."""
        return reply_json(build_document())

    async def get_models(self, request: Request) -> Response:
        """List the models that requests may name."""
        self._entry.authenticate(request)
        return reply_json({"object": "list", "data": [_show_model(model) for model in self._gateway.models()]})

    async def get_model(self, request: Request, model_id: str) -> Response:
        """Describe one model. Errors: UnknownModel, answered as 404."""
        self._entry.authenticate(request)
        return reply_json(_show_model(self._entry.find_model(model_id)))

    def _make_handler(self, operation: Operation) -> Any:
        async def answer(request: Request) -> Response:
            return await self._entry.handle(operation, request)

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
