"""What a node tells anybody: bounded questions, codes for refusals, and never more at once than it can bear."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette

from paceline.base.errors import InvalidTransaction, TransportError, WorkError
from paceline.network.public import MAX_AT_ONCE, MAX_BODY_BYTES, PublicPath, create_public_routes
from paceline.network.wire import decode_refusal


def run(paths, talk):
    """Talk to an app with these paths."""

    async def go():
        transport = httpx.ASGITransport(Starlette(routes=create_public_routes(paths)), client=("10.1.2.3", 99))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await talk(client)

    return asyncio.run(go())


async def repeat(asked):
    return f"{asked.host}|{asked.name}|{asked.query}|".encode() + asked.body


def test_a_question_arrives_with_its_sender():
    paths = {"/public/{name}": PublicPath(repeat, "text/plain")}
    reply = run(paths, lambda client: client.post("/public/thing?a=1", content=b"body"))
    assert (reply.status_code, reply.content) == (200, b"10.1.2.3|thing|a=1|body")
    assert reply.headers["content-type"].startswith("text/plain")


def test_a_body_at_the_limit_passes():
    reply = run({"/x": PublicPath(repeat)}, lambda client: client.post("/x", content=bytes(MAX_BODY_BYTES)))
    assert reply.status_code == 200


def test_invalid_body_one_over_the_limit():
    reply = run({"/x": PublicPath(repeat)}, lambda client: client.post("/x", content=bytes(MAX_BODY_BYTES + 1)))
    assert (reply.status_code, decode_refusal(reply.content).code) == (400, "envelope-size")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidTransaction("no-good", "why"), 400, "no-good"),
        (WorkError("broke"), 503, "work-failed"),
        (TransportError("gone"), 502, "peer-unreachable"),
    ],
)
def test_invalid_what_a_handler_refuses_leaves_as_a_code(error, status, code):
    async def refuse(_):
        raise error

    reply = run({"/x": PublicPath(refuse)}, lambda client: client.get("/x"))
    assert (reply.status_code, decode_refusal(reply.content).code) == (status, code)


def test_invalid_one_question_more_than_fits():
    async def talk(client):
        asked = [asyncio.create_task(client.get("/x")) for _ in range(MAX_AT_ONCE)]
        await full.wait()
        late = await client.get("/x")
        gate.set()
        return late, await asyncio.gather(*asked)

    full, gate, entered = asyncio.Event(), asyncio.Event(), []

    async def slow(_):
        entered.append(1)
        if len(entered) == MAX_AT_ONCE:
            full.set()
        await gate.wait()
        return b"done"

    late, replies = run({"/x": PublicPath(slow)}, talk)
    assert (late.status_code, decode_refusal(late.content).code) == (503, "busy")
    assert [reply.status_code for reply in replies] == [200] * MAX_AT_ONCE
