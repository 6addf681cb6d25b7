"""Schemas of what the API answers.

Refuses to know: routes. Invariant: every member that a client may rely on is required.
"""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
FLAG: dict[str, Any] = {"type": "boolean"}
MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
MAYBE_COUNT: dict[str, Any] = {"type": ["integer", "null"], "minimum": 0}
MAYBE_OBJECT: dict[str, Any] = {"type": ["object", "null"]}


def refer(name: str) -> dict[str, Any]:
    """Return a reference to a schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def make_object(kind: str | None = None, /, **members: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object; `kind` is its `object` member. All members are required but `tool_calls`."""
    properties = {"object": {"const": kind}, **members} if kind is not None else dict(members)
    required = [name for name in properties if name != "tool_calls"]
    return {"type": "object", "properties": properties, "required": required}


def make_list(name: str) -> dict[str, Any]:
    """Return the schema of a part of a list."""
    return make_object(
        "list",
        data={"type": "array", "items": refer(name)},
        first_id=MAYBE_TEXT,
        last_id=MAYBE_TEXT,
        has_more=FLAG,
    )


def _enum(*words: str | None) -> dict[str, Any]:
    return {"enum": list(words)}


def _array(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


_HEAD = {"id": TEXT, "created": COUNT, "model": TEXT, "system_fingerprint": MAYBE_TEXT}
_FINISH = _enum("stop", "length", "tool_calls")
_TASK = make_object(task=TEXT, executor=TEXT, cost_nicoin=COUNT)
_CALL = make_object(id=TEXT, type=_enum("function"), function=make_object(name=TEXT, arguments=TEXT))

REPLIES: dict[str, Any] = {
    "Error": make_object(error=make_object(message=TEXT, type=TEXT, param=MAYBE_TEXT, code=MAYBE_TEXT)),
    "Health": make_object(status=_enum("ok"), height=COUNT),
    "Model": make_object(
        "model",
        id=TEXT,
        created=COUNT,
        owned_by=TEXT,
        context_tokens=COUNT,
        precision=TEXT,
        price_nicoin=COUNT,
        hosts=_array(TEXT),
        prompts_read_by=_array(TEXT),
    ),
    "ModelList": make_object("list", data=_array(refer("Model"))),
    "Task": _TASK,
    "Receipt": make_object(task=TEXT, executor=TEXT, cost_nicoin=COUNT, tasks=_array(refer("Task"))),
    "TokenUsage": make_object(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
    "ChatCompletion": make_object(
        "chat.completion",
        **_HEAD,
        choices=_array(
            make_object(
                index=COUNT,
                message=make_object(
                    role=_enum("assistant"),
                    content=MAYBE_TEXT,
                    refusal={"type": "null"},
                    tool_calls=_array(_CALL),
                ),
                logprobs=MAYBE_OBJECT,
                finish_reason=_FINISH,
            )
        ),
        usage=refer("TokenUsage"),
        paceline=refer("Receipt"),
    ),
    "Completion": make_object(
        "text_completion",
        **_HEAD,
        choices=_array(make_object(index=COUNT, text=TEXT, logprobs=MAYBE_OBJECT, finish_reason=_FINISH)),
        usage=refer("TokenUsage"),
        paceline=refer("Receipt"),
    ),
    "EmbeddingList": make_object(
        "list",
        data=_array(
            make_object(
                "embedding", index=COUNT, embedding={"anyOf": [TEXT, {"type": "array", "items": {"type": "number"}}]}
            )
        ),
        model=TEXT,
        usage=make_object(prompt_tokens=COUNT, total_tokens=COUNT),
        paceline=refer("Receipt"),
    ),
    "Response": make_object(
        "response",
        id=TEXT,
        created_at=COUNT,
        status=_enum("completed", "incomplete"),
        model=TEXT,
        output=_array({"type": "object"}),
        usage=MAYBE_OBJECT,
        error={"type": "null"},
        incomplete_details=MAYBE_OBJECT,
        previous_response_id=MAYBE_TEXT,
        instructions=MAYBE_TEXT,
        metadata=MAYBE_OBJECT,
        parallel_tool_calls=FLAG,
        temperature={"type": "number"},
        top_p={"type": "number"},
        text={"type": "object"},
        tool_choice={"type": ["string", "object"]},
        tools=_array({"type": "object"}),
        store=FLAG,
        truncation=_enum("disabled"),
        paceline=refer("Task"),
    ),
    "Deleted": make_object(id=TEXT, object=_enum("file", "response"), deleted={"const": True}),
    "File": make_object(
        "file",
        id=TEXT,
        bytes=COUNT,
        created_at=COUNT,
        expires_at=MAYBE_COUNT,
        filename=TEXT,
        purpose=TEXT,
        status=_enum("processed"),
        status_details={"type": "null"},
    ),
    "FileList": make_list("File"),
    "Batch": make_object(
        "batch",
        id=TEXT,
        endpoint=TEXT,
        errors=MAYBE_OBJECT,
        input_file_id=TEXT,
        completion_window=TEXT,
        status=_enum(
            "validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "expired", "cancelled"
        ),
        output_file_id=MAYBE_TEXT,
        error_file_id=MAYBE_TEXT,
        created_at=COUNT,
        expires_at=COUNT,
        **{
            f"{name}_at": MAYBE_COUNT
            for name in ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        },
        request_counts=make_object(total=COUNT, completed=COUNT, failed=COUNT),
        metadata=MAYBE_OBJECT,
    ),
    "BatchList": make_list("Batch"),
    "Usage": make_object(
        "page",
        data=_array(
            make_object(
                "bucket",
                start_time=COUNT,
                end_time=COUNT,
                results=_array(
                    make_object(
                        "usage.result",
                        model=TEXT,
                        num_model_requests=COUNT,
                        input_tokens=COUNT,
                        output_tokens=COUNT,
                        cost_nicoin=COUNT,
                    )
                ),
            )
        ),
        has_more=FLAG,
        next_page=MAYBE_TEXT,
        key=make_object(id=TEXT, name=TEXT, today={"type": "object"}, limits={"type": "object"}),
    ),
}
