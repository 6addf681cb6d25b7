"""The API's OpenAPI document, made from the types that requests are decoded with.

Refuses to know: models and keys. Invariant: every route of the API is in it, with every option and every status it answers.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from paceline.web.batch_routes import BATCH_SHAPE
from paceline.web.embedding_routes import EMBEDDING_SHAPE
from paceline.web.entry import IDEMPOTENCY_PATTERN, SHARING_HEADER
from paceline.web.fields import BodyShape
from paceline.web.file_routes import MAX_PAGE
from paceline.web.openapi_replies import REPLIES, refer
from paceline.web.requests import CHAT_SHAPE
from paceline.web.response_shapes import RESPONSE_SHAPE
from paceline.web.text_routes import TEXT_SHAPE

VERSION = "1"
SHAPES = (CHAT_SHAPE, TEXT_SHAPE, EMBEDDING_SHAPE, RESPONSE_SHAPE, BATCH_SHAPE)
READS = (401, 403)
WRITES = (400, 401, 403, 408, 413, 415)
PAID = (*WRITES, 404, 409, 422, 429, 502)
TOLD = {
    400: "The request cannot be served; `param` names what to change.",
    401: "The API key is missing or unknown.",
    403: "The API key may not do this.",
    404: "There is no such thing, or it belongs to another key.",
    408: "The body did not arrive in time.",
    409: "It contradicts what is under way.",
    413: "The body is too large.",
    415: "The content type is not the one of this route.",
    422: "The idempotency key stands for another request.",
    429: "A limit is reached, funds are short or all nodes are busy; `retry-after` says when to try again.",
    502: "The nodes drawn for this request did not answer.",
}
LIMIT = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 20}
ORDER = {"type": "string", "enum": ["asc", "desc"], "default": "desc"}
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body within 24 hours get the same answer, paid once.",
    "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_PATTERN}$"},
}

SHARING = {
    "name": SHARING_HEADER,
    "in": "header",
    "required": False,
    "description": "With `yes` the relay may send this prompt again, to other nodes, as a test of them. Off by default.",
    "schema": {"type": "string", "enum": ["yes", "no"], "default": "no"},
}


@cache
def build_document(models: tuple[str, ...]) -> dict[str, Any]:
    """Return the document of a node that can answer with these models."""
    schemas: dict[str, Any] = dict(REPLIES)
    for shape in SHAPES:
        schemas |= shape.to_schema()
        if models and "model" in schemas[shape.name]["properties"]:
            schemas[shape.name]["properties"]["model"] = {"enum": list(models)}
    paths = {**_describe_reads(), **_describe_paid(), **_describe_files(), **_describe_batches()}
    for path, methods in paths.items():
        for method, described in methods.items():
            described["operationId"] = name_operation(method, path)
    _add_links(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Paceline",
            "version": VERSION,
            "description": "OpenAI's API, answered by a network that checks itself. What is not supported is refused by name.",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}, "schemas": schemas},
        "paths": paths,
    }


def name_operation(method: str, path: str) -> str:
    """Return the id of an operation, such as `get_v1_files_file_id`."""
    return "_".join([method, *(part for part in re.split(r"[^a-z0-9]+", path) if part)])


def _add_links(paths: dict[str, Any]) -> None:
    """Say that what a POST made is what the other routes of its kind take."""
    for path, name in (("/v1/files", "file_id"), ("/v1/batches", "batch_id"), ("/v1/responses", "response_id")):
        taken = {name: "$response.body#/id"}
        paths[path]["post"]["responses"]["200"]["links"] = {
            described["operationId"]: {"operationId": described["operationId"], "parameters": taken}
            for other, methods in paths.items()
            if other.startswith(f"{path}/{{")
            for described in methods.values()
        }
    asked = {"input_file_id": "$response.body#/id", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = {"operationId": name_operation("post", "/v1/batches"), "requestBody": asked}
    paths["/v1/files"]["post"]["responses"]["200"]["links"]["batch"] = batch


def _describe_reads() -> dict[str, Any]:
    times = {"type": "integer", "minimum": 0, "maximum": 99_999_999_999}
    usage = [
        _query("start_time", times),
        _query("end_time", times),
        _query("bucket_width", {"type": "string", "enum": ["1h", "1d"]}),
    ]
    health = _operation("Is this node there, and at which height", "Health", ())
    document = _operation("This document", None, ())
    for free in (health, document):
        free["security"] = []
    return {
        "/health": {"get": health},
        "/openapi.json": {"get": document},
        "/v1/models": {"get": _operation("List the models", "ModelList", READS)},
        "/v1/models/{model_id}": {"get": _operation("Describe a model", "Model", (*READS, 404), [_path("model_id")])},
        "/v1/usage": {"get": _operation("What this key used", "Usage", (*READS, 400), usage)},
    }


def _describe_paid() -> dict[str, Any]:
    replies = (
        ("/v1/chat/completions", "Answer a conversation", CHAT_SHAPE, "ChatCompletion"),
        ("/v1/completions", "Go on from bare texts or token ids", TEXT_SHAPE, "Completion"),
        ("/v1/embeddings", "Turn texts into vectors", EMBEDDING_SHAPE, "EmbeddingList"),
        ("/v1/responses", "Answer, and keep the answer to go on from", RESPONSE_SHAPE, "Response"),
    )
    paths: dict[str, Any] = {}
    for path, summary, shape, reply in replies:
        described = _operation(summary, reply, PAID, [IDEMPOTENCY, SHARING])
        if "stream" in shape.to_schema()[shape.name]["properties"]:
            described["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
        paths[path] = {"post": described | {"requestBody": _body(shape)}}
    kept = [_path("response_id")]
    paths["/v1/responses/{response_id}"] = {
        "get": _operation("Show a kept answer", "Response", (*READS, 400, 404), kept),
        "delete": _operation("Forget a kept answer", "Deleted", (*READS, 404), kept),
    }
    return paths


def _describe_files() -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary", "minLength": 1},
            "purpose": {"type": "string", "enum": ["batch"]},
        },
        "required": ["file", "purpose"],
        "additionalProperties": False,
    }
    upload = _operation("Keep a file for a batch", "File", WRITES)
    upload["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    listed = [_query("limit", LIMIT), _query("after", {"type": "string"}), _query("order", ORDER)]
    listed.append(_query("purpose", {"type": "string"}))
    one = [_path("file_id")]
    content = _operation("The content of a file", None, (*READS, 404), one)
    content["responses"]["200"]["content"] = {"application/octet-stream": {"schema": {"type": "string"}}}
    return {
        "/v1/files": {"post": upload, "get": _operation("List files", "FileList", (*READS, 400), listed)},
        "/v1/files/{file_id}": {
            "get": _operation("Describe a file", "File", (*READS, 404), one),
            "delete": _operation("Forget a file", "Deleted", (*READS, 404), one),
        },
        "/v1/files/{file_id}/content": {"get": content},
    }


def _describe_batches() -> dict[str, Any]:
    added = _operation("Answer the lines of a file in the background", "Batch", (*WRITES, 404, 429))
    added["requestBody"] = _body(BATCH_SHAPE)
    listed = [_query("limit", LIMIT), _query("after", {"type": "string"})]
    one = [_path("batch_id")]
    return {
        "/v1/batches": {"post": added, "get": _operation("List batches", "BatchList", (*READS, 400), listed)},
        "/v1/batches/{batch_id}": {"get": _operation("Describe a batch", "Batch", (*READS, 404), one)},
        "/v1/batches/{batch_id}/cancel": {
            "post": _operation("Begin no more lines", "Batch", (*READS, 404, 409), one),
        },
    }


def _operation(
    summary: str, reply: str | None, errors: tuple[int, ...], parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    schema = refer(reply) if reply is not None else {"type": "object"}
    good = {"description": "As asked.", "content": {"application/json": {"schema": schema}}}
    refused = {
        str(status): {"description": TOLD[status], "content": {"application/json": {"schema": refer("Error")}}}
        for status in sorted(set(errors))
    }
    return {"summary": summary, "parameters": parameters or [], "responses": {"200": good, **refused}}


def _body(shape: BodyShape) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": refer(shape.name)}}}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
