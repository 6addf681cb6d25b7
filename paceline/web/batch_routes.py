"""/v1/batches: many requests in a file, answered in the background.

Refuses to know: how lines are answered. Invariant: a batch names a file of the same key and a route that lines may name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from paceline.node.api import batches as states
from paceline.node.api.batches import Batch
from paceline.node.views import RequestRefused
from paceline.web.batch_runner import BatchRunner
from paceline.web.entry import Entry, check_query, reply_json
from paceline.web.fields import BodyShape
from paceline.web.file_routes import read_page, show_page
from paceline.web.shapes import Name

WINDOW_SECONDS = 24 * 3600
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MetadataKey = Annotated[str, Meta(min_length=1, max_length=64)]
Metadata = Annotated[dict[MetadataKey, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]

BATCH_SHAPE = BodyShape(
    "BatchRequest",
    {
        "input_file_id": Name,
        "endpoint": Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"],
        "completion_window": Literal["24h"],
        "metadata": Metadata | None,
    },
    required=("input_file_id", "endpoint", "completion_window"),
    calm={"output_expires_after": (None,)},
)


class BatchRoutes:
    """The routes of batches."""

    def __init__(self, entry: Entry, runner: BatchRunner) -> None:
        self._entry = entry
        self._runner = runner
        self._store = entry.desk.batches

    async def add_batch(self, request: Request) -> Response:
        """Take a batch. Its file is looked at in the background, like its lines."""
        account = self._entry.authenticate(request)
        values = BATCH_SHAPE.decode(await self._entry.read_json(request))
        self._entry.desk.files.get(account.key_id, values["input_file_id"])
        now = int(self._entry.desk.now())
        batch = self._store.add(
            Batch(
                batch_id="",
                owner=account.key_id,
                endpoint=values["endpoint"],
                input_file_id=values["input_file_id"],
                completion_window=values["completion_window"],
                created_at=now,
                expires_at=now + WINDOW_SECONDS,
                metadata=values.get("metadata") or {},
            )
        )
        self._runner.wake()
        return reply_json(self._show(batch))

    async def list_batches(self, request: Request) -> Response:
        """List batches, newest first."""
        account = self._entry.authenticate(request)
        query = check_query(request, {"limit": "20", "after": ""})
        found, more = self._store.list_page(account.key_id, read_page({**query, "order": "desc"}))
        return reply_json(show_page([self._show(batch) for batch in found], more=more))

    async def get_batch(self, request: Request, batch_id: str) -> Response:
        """Describe a batch."""
        account = self._entry.authenticate(request)
        return reply_json(self._show(self._store.get(account.key_id, batch_id)))

    async def cancel_batch(self, request: Request, batch_id: str) -> Response:
        """Begin no more lines; those under way are answered and kept."""
        account = self._entry.authenticate(request)
        batch = self._store.get(account.key_id, batch_id)
        if batch.status not in states.OPEN:
            text = f"The batch is {batch.status} already."
            raise RequestRefused("id", "batch_not_open", text, 409)
        if batch.status != states.CANCELLING:
            batch = batch.enter(states.CANCELLING, int(self._entry.desk.now()))
            self._store.save(batch)
        self._runner.wake()
        return reply_json(self._show(batch))

    def _show(self, batch: Batch) -> dict[str, Any]:
        if batch.status in {states.IN_PROGRESS, states.CANCELLING}:
            completed, failed = self._store.count_lines(batch.batch_id)
            batch = msgspec.structs.replace(batch, completed=completed, failed=failed)
        return show_batch(batch)


def show_batch(batch: Batch) -> dict[str, Any]:
    """Return a batch under OpenAI's names."""
    problems = [{"code": p.code, "message": p.message, "line": p.line, "param": p.param} for p in batch.problems]
    moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{f"{name}_at": batch.moments.get(name) for name in moments},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata or None,
    }
