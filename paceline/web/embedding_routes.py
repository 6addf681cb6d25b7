"""POST /v1/embeddings: one vector for each text.

Refuses to know: how a vector is made. Invariant: vectors stand in the order of their inputs.
"""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.types import Send

from paceline.node.views import Account, EmbedViewRequest
from paceline.web.chat_routes import JSON_HEADERS
from paceline.web.entry import Entry, Tally, Work
from paceline.web.fields import BodyShape
from paceline.web.shapes import Name
from paceline.web.streams import end_reply, start_reply
from paceline.web.text_routes import Prompts, estimate_prompt, split_prompts

FLOAT_BYTES = 4

EMBEDDING_SHAPE = BodyShape(
    "EmbeddingRequest",
    {
        "model": Name,
        "input": Prompts,
        "encoding_format": Literal["float", "base64"] | None,
        "user": Annotated[str, Meta()] | None,
    },
    required=("model", "input"),
    calm={"dimensions": (None,)},
)


class EmbeddingOperation:
    """Turns texts into vectors."""

    path = "/v1/embeddings"

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def prepare(self, account: Account, body: bytes, *, in_batch: bool) -> Work:
        """Check a body. Errors: RequestRefused, UnknownModel."""
        del in_batch  # an embedding is the same in a batch
        values = EMBEDDING_SHAPE.decode(body)
        inputs = tuple(split_prompts(values["input"], "input"))
        asked = EmbedViewRequest(model=values["model"], inputs=inputs)
        as_base64 = values.get("encoding_format") == "base64"
        return Work(
            model=self._entry.find_model(asked.model),
            prompt_tokens=sum(estimate_prompt(given) for given in inputs),
            answer_tokens=0,
            answers=1,
            serve=lambda send, tally: self._serve(account, asked, send, tally, as_base64=as_base64),
        )

    async def _serve(
        self, account: Account, asked: EmbedViewRequest, send: Send, tally: Tally, *, as_base64: bool
    ) -> None:
        found = await self._entry.gateway.embed(account, asked)
        cost = sum(task.cost_nicoin for task in found.tasks)
        tally.add(found.prompt_tokens, 0, cost)
        tasks = [
            {"task": task.task_id, "executor": task.executor, "cost_nicoin": task.cost_nicoin} for task in found.tasks
        ]
        fields = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _show(values, as_base64=as_base64)}
                for index, values in enumerate(found.vectors)
            ],
            "model": asked.model,
            "usage": {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens},
            "paceline": {**tasks[0], "cost_nicoin": cost, "tasks": tasks},
        }
        names = {"x-paceline-task": found.tasks[0].task_id, "x-paceline-executor": found.tasks[0].executor}
        await start_reply(send, {**JSON_HEADERS, **names, **tally.headers})
        await end_reply(send, msgspec.json.encode(fields))


def _show(values: bytes, *, as_base64: bool) -> str | list[Any]:
    if as_base64:
        return base64.b64encode(values).decode()
    return list(struct.unpack(f"<{len(values) // FLOAT_BYTES}f", values))
