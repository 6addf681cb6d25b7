"""Files, batches and usage through the unmodified official client."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import msgspec
import openai
import pytest
from openai import OpenAI
from scripted_gateway import GOOD_KEY, MODEL, LoopbackServer, ScriptedGateway

from paceline.node.api.batches import Batch
from paceline.node.api.desk import ApiDesk
from paceline.node.views import Busy, KeyLimits, UnknownKey
from paceline.web.api import Api
from paceline.web.batch_runner import MAX_LINES, read_lines
from paceline.web.settings import WebSettings

CHAT = "/v1/chat/completions"
FORM = {"content-type": "multipart/form-data; boundary=x"}


def make_line(custom_id: str, url: str = CHAT, **body) -> dict:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": custom_id}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked}


def encode(lines: list[dict]) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines)


def wait_for(client: OpenAI, batch_id: str):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        batch = client.batches.retrieve(batch_id)
        if batch.status in {"completed", "failed", "cancelled", "expired"}:
            return batch
    raise AssertionError(f"still {batch.status}")


def start(client: OpenAI, lines: list[dict], endpoint: str = CHAT):
    kept = client.files.create(file=("in.jsonl", encode(lines)), purpose="batch")
    return client.batches.create(input_file_id=kept.id, endpoint=endpoint, completion_window="24h")


def test_files(client: OpenAI):
    content = b'{"a": 1}\r\n\r\n--x\n\x00\xff'
    kept = client.files.create(file=("näme.jsonl", content), purpose="batch")
    assert (kept.bytes, kept.filename, kept.purpose, kept.status) == (len(content), "näme.jsonl", "batch", "processed")
    assert client.files.retrieve(kept.id) == kept
    assert client.files.content(kept.id).read() == content
    assert client.files.delete(kept.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(kept.id)


def test_files_page_by_page(client: OpenAI):
    ids = [client.files.create(file=(f"{number}", b"x"), purpose="batch").id for number in range(5)]
    assert [kept.id for kept in client.files.list(limit=2)] == ids[::-1]
    assert [kept.id for kept in client.files.list(limit=2, order="asc")] == ids
    page = client.files.list(limit=5)
    assert (len(page.data), page.has_more) == (5, False)
    assert client.files.list(purpose="batch_output").data == []


def test_a_file_belongs_to_its_key(client, gateway, server):
    kept = client.files.create(file=b"x", purpose="batch")
    gateway.known_keys.add("sk-other")
    with OpenAI(base_url=f"{server.url}/v1", api_key="sk-other", max_retries=0) as other:
        assert other.files.list().data == []
        with pytest.raises(openai.NotFoundError):
            other.files.content(kept.id)
        with pytest.raises(openai.NotFoundError):
            other.batches.create(input_file_id=kept.id, endpoint=CHAT, completion_window="24h")


def test_quota(gateway):
    with (
        LoopbackServer(gateway, desk=ApiDesk(quota_bytes=10)) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=0) as client,
    ):
        kept = client.files.create(file=b"x" * 10, purpose="batch")
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.create(file=b"x", purpose="batch")
        assert caught.value.code == "file_quota_exceeded"
        client.files.delete(kept.id)
        client.files.create(file=b"x", purpose="batch")


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"content-type": "application/json"}, b"{}", 415, "unsupported_media_type"),
        ({"content-type": "multipart/form-data"}, b"", 400, "invalid_form"),
        (FORM, b"nonsense", 400, "invalid_form"),
        (FORM, b"--x\r\nno headers\r\n--x--", 400, "invalid_form"),
        (FORM, b"--x\r\ncontent-disposition: form-data\r\n\r\na\r\n--x--", 400, "invalid_form"),
        (FORM, b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\na', 400, "invalid_form"),
        (FORM, b'--x\r\ncontent-disposition: form-data; name="mood"\r\n\r\na\r\n--x--', 400, "unknown_parameter"),
        (
            FORM,
            b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\na\r\n--x--',
            400,
            "missing_required_parameter",
        ),
        (FORM, b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\na\r\n' * 2 + b"--x--", 400, "invalid_value"),
        (FORM | {"sec-fetch-site": "cross-site"}, b"--x--", 403, "cross_site_request"),
    ],
)
def test_invalid_upload(http: httpx.Client, headers, body, status, code):
    reply = http.post("/v1/files", content=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_invalid_purpose_and_size(client, gateway):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=b"x", purpose="fine-tune")
    assert caught.value.param == "purpose"
    with (
        LoopbackServer(gateway, WebSettings(file_limit_bytes=500)) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=0) as small,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        small.files.create(file=b"x" * 5000, purpose="batch")
    assert caught.value.status_code == 413


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"order": "up"}, {"after": "file-no"}]
)
def test_invalid_page(http: httpx.Client, query):
    reply = http.get("/v1/files", params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, next(iter(query)))
    assert http.get("/v1/files?sort=x").json()["error"]["code"] == "unknown_parameter"


def test_batch_with_good_and_bad_lines(client: OpenAI, gateway: ScriptedGateway):
    batch = start(
        client, [make_line("a"), make_line("b", n=999), make_line("c", model="gpt-9"), make_line("d", stream=True)]
    )
    assert (batch.status, batch.object, batch.endpoint) == ("validating", "batch", CHAT)
    done = wait_for(client, batch.id)
    counts = done.request_counts
    assert (done.status, counts.total, counts.completed, counts.failed) == ("completed", 4, 1, 3)
    (good,) = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert (good["custom_id"], good["response"]["status_code"], good["error"]) == ("a", 200, None)
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "Hello, world"
    assert good["response"]["body"]["paceline"]["task"]
    bad = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in bad] == [
        ("b", 400),
        ("c", 404),
        ("d", 400),
    ]
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert [found.id for found in client.batches.list(limit=1)] == [batch.id]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [("/v1/completions", {"prompt": "x"}), ("/v1/embeddings", {"input": "x"}), ("/v1/responses", {"input": "x"})],
)
def test_batch_of_another_route(client, endpoint, body):
    line = make_line("a", endpoint) | {"body": {"model": MODEL} | body}
    assert wait_for(client, start(client, [line], endpoint).id).request_counts.completed == 1


def test_invalid_batch_file(client: OpenAI):
    lines = [make_line("a"), make_line("a"), make_line("b", url="/v1/models"), {"custom_id": "c"}]
    done = wait_for(client, start(client, lines).id)
    assert done.status == "failed"
    assert [(problem.line, problem.code) for problem in done.errors.data] == [
        (2, "duplicate_custom_id"),
        (3, "mismatched_endpoint"),
        (4, "invalid_json_line"),
    ]


@pytest.mark.parametrize(
    "content", [b"\n", b"\xff\xfe", b"{", b"[]", b'{"custom_id":"\xff"}', b"x\n" * (MAX_LINES + 1)]
)
def test_invalid_lines(content):
    lines, problems = read_lines(content, CHAT)
    assert lines == []
    assert problems


def test_boundary_of_the_lines():
    content = encode([make_line(str(number)) for number in range(MAX_LINES)])
    assert len(read_lines(content, CHAT)[0]) == MAX_LINES


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"output_expires_after": {"seconds": 3}}, "output_expires_after"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
    ],
)
def test_invalid_batch(http: httpx.Client, body, field):
    asked = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h"} | body
    reply = http.post("/v1/batches", json=asked)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


def test_cancel(client: OpenAI, gateway: ScriptedGateway):
    gateway.hang = True
    batch = start(client, [make_line("a")])
    while not gateway.chats:
        client.batches.retrieve(batch.id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    gateway.hang = False
    with pytest.raises(openai.NotFoundError):
        client.batches.cancel("batch_no")


def test_invalid_cancel_of_a_finished_batch(client):
    batch = wait_for(client, start(client, [make_line("a")]).id)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_a_batch_goes_on_after_a_restart(tmp_path: Path):
    """The node stopped after the first line was kept; the next one asks only what has no answer yet."""
    path = tmp_path / "api.sqlite"
    before, desk = ScriptedGateway(), ApiDesk(path)
    with (
        LoopbackServer(before, desk=desk) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=0) as client,
    ):
        kept = client.files.create(file=encode([make_line("c"), make_line("d")]), purpose="batch")
    owner = f"id-{GOOD_KEY}"
    left = desk.batches.add(make_batch(owner, kept.id))
    desk.batches.save(msgspec.structs.replace(left, status="in_progress", total=2))
    desk.batches.save_line(left.batch_id, 0, b'{"custom_id":"c"}', failed=False)
    desk.close()
    after = ScriptedGateway()
    with (
        LoopbackServer(after, desk=ApiDesk(path)) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=0) as client,
    ):
        done = wait_for(client, left.batch_id)
        output = client.files.content(done.output_file_id).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == ["c", "d"]
    assert [request.messages[0].content for _, request in after.chats] == ["d"]


def make_batch(owner: str, file_id: str) -> Batch:
    return Batch(
        batch_id="",
        owner=owner,
        endpoint=CHAT,
        input_file_id=file_id,
        completion_window="24h",
        created_at=1,
        expires_at=2**40,
    )


def run_batch(gateway: ScriptedGateway, desk: ApiDesk, lines: list[dict]) -> tuple[Batch, list[float]]:
    """Run one batch without a server; the pauses are returned instead of taken."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        gateway.fail_before = None

    async def run() -> Batch:
        api = Api(gateway, WebSettings(), desk)
        api.runner._pause = pause
        kept = desk.files.add("id-demo", "x", "batch", encode(lines), 1)
        batch = desk.batches.add(make_batch("id-demo", kept.file_id))
        await api.runner.run_open()
        return desk.batches.get("id-demo", batch.batch_id)

    return asyncio.run(run()), pauses


def test_a_line_waits_while_all_nodes_are_busy():
    gateway = ScriptedGateway()
    gateway.fail_before = Busy("full", 3)
    done, pauses = run_batch(gateway, ApiDesk(), [make_line("a")])
    assert (done.completed, pauses) == (1, [3])


def test_a_daily_limit_fails_the_lines_behind_it():
    gateway = ScriptedGateway()
    gateway.limits = KeyLimits(tokens_per_day=1100)
    done, pauses = run_batch(gateway, ApiDesk(), [make_line("a"), make_line("b", max_tokens=2000)])
    assert (done.completed, done.failed, pauses) == (1, 1, [])


def test_a_revoked_key_gets_no_more_lines():
    gateway = ScriptedGateway()
    gateway.fail_before = UnknownKey("revoked")
    done, _ = run_batch(gateway, ApiDesk(), [make_line("a")])
    assert done.failed == 1


def test_a_bug_ends_one_line():
    gateway = ScriptedGateway()
    gateway.fail_before = ValueError("a bug")
    done, _ = run_batch(gateway, ApiDesk(), [make_line("a")])
    assert done.failed == 1


def test_usage(client: OpenAI, gateway: ScriptedGateway, http: httpx.Client):
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], n=2)
    client.embeddings.create(model=MODEL, input="x")
    headers = {"authorization": f"Bearer {GOOD_KEY}"}
    page = http.get("/v1/usage", headers=headers).json()
    ((result,),) = [bucket["results"] for bucket in page["data"]]
    assert result == {
        "object": "usage.result",
        "model": MODEL,
        "num_model_requests": 2,
        "input_tokens": 16,
        "output_tokens": 6,
        "cost_nicoin": 20_005,
    }
    assert page["key"]["today"] == {"requests": 2, "tokens": 22, "cost_nicoin": 20_005}
    assert http.get("/v1/usage").json()["data"] == []


@pytest.mark.parametrize(
    "query", [{"bucket_width": "1m"}, {"start_time": "x"}, {"start_time": "10", "end_time": "5"}, {"limit": "3"}]
)
def test_invalid_usage(http: httpx.Client, query):
    assert http.get("/v1/usage", params=query).status_code == 400
