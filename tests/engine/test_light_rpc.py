"""Light blocks over CometBFT's RPC: pages, refusals, nonsense, and answers that contradict themselves."""

from __future__ import annotations

import base64
import copy
import json
from contextlib import suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_chain import load_recorded, load_vectors, make_block, make_http_provider, make_set, refuses

from paceline.base.errors import InvalidBlock, TransportError
from paceline.engine import light_rpc
from paceline.engine.light_blocks import check_light_block
from paceline.engine.light_rpc import HttpLightProvider

VECTORS = load_vectors()
BIG = make_set([7] * 250)


def make_provider(answer):
    return HttpLightProvider("http://node/", httpx.MockTransport(answer))


def render_big_set(request: httpx.Request) -> dict:
    """One page of 250 validators, as the engine cuts it."""
    page, per_page = int(request.url.params["page"]), int(request.url.params["per_page"])
    shown = list(make_block(1, BIG).validators)[(page - 1) * per_page : page * per_page]
    validators = [
        {
            "address": found.address.hex().upper(),
            "pub_key": {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(found.public_key).decode()},
            "voting_power": str(found.voting_power),
            "proposer_priority": "-3",
        }
        for found in shown
    ]
    return {"block_height": "1", "validators": validators, "count": str(len(shown)), "total": "250"}


def test_recorded_answers_become_blocks_that_hold_together():
    provider = make_http_provider(VECTORS)
    for height in range(1, len(VECTORS) + 1):
        block = provider.get_light_block(height)
        assert block.height == height
        check_light_block(block)
    assert provider.get_light_block(None).height == len(VECTORS)
    assert provider.name == "http://node"
    provider.close()


def test_validators_come_in_pages():
    asked = []

    def answer(request):
        asked.append(str(request.url))
        found = VECTORS[0]["commit"] if request.url.path == "/commit" else render_big_set(request)
        return httpx.Response(200, json={"result": found})

    block = make_provider(answer).get_light_block(1)
    assert block.validators == make_block(1, BIG).validators
    assert len(asked) == 4
    assert asked[-1] == "http://node/validators?height=1&page=3&per_page=100"


def test_invalid_pages_that_never_fill_up():
    def empty(request):
        found = {"block_height": "1", "validators": [], "total": "250"}
        return httpx.Response(200, json={"result": VECTORS[0]["commit"] if request.url.path == "/commit" else found})

    with refuses("malformed"):
        make_provider(empty).get_light_block(1)

    def overfull(request):
        found = {**render_big_set(request), "total": "99"} if request.url.path != "/commit" else VECTORS[0]["commit"]
        return httpx.Response(200, json={"result": found})

    with refuses("malformed"):
        make_provider(overfull).get_light_block(1)
    asked = []

    def one_by_one(request):
        asked.append(request)
        if request.url.path == "/commit":
            return httpx.Response(200, json={"result": VECTORS[0]["commit"]})
        found = render_big_set(request)
        return httpx.Response(200, json={"result": {**found, "validators": found["validators"][:1]}})

    with refuses("malformed"):
        make_provider(one_by_one).get_light_block(1)
    assert len(asked) == 2


def test_invalid_validators_of_another_height():
    answers = copy.deepcopy(VECTORS)
    answers[1]["validators"]["block_height"] = "3"
    with refuses("malformed"):
        make_http_provider(answers).get_light_block(2)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("commit", "signed_header", "header", "time"), "yesterday"),
        (("commit", "signed_header", "header", "time"), "2300-01-01T00:00:00Z"),
        (("commit", "signed_header", "header", "height"), "two"),
        (("commit", "signed_header", "header", "height"), "18446744073709551616"),
        (("commit", "signed_header", "header", "version", "block"), "-1"),
        (("commit", "signed_header", "header", "chain_id"), "x" * 51),
        (("commit", "signed_header", "header", "data_hash"), "0"),
        (("commit", "signed_header", "header", "data_hash"), "00" * 33),
        (("commit", "signed_header", "header", "proposer_address"), ""),
        (("commit", "signed_header", "commit", "round"), -1),
        (("commit", "signed_header", "commit", "signatures"), None),
        (("commit", "signed_header", "commit", "signatures", 0, "block_id_flag"), 4),
        (("commit", "signed_header", "commit", "signatures", 0, "timestamp"), "0001-01-01T00:00:00Z"),
        (("commit", "signed_header", "commit", "signatures", 0, "signature"), "AA"),
        (("commit", "signed_header", "commit", "signatures", 0, "signature"), "A" * 88),
        (("validators", "validators", 0, "voting_power"), "0"),
        (("validators", "validators", 0, "voting_power"), str(2**62)),
        (("validators", "validators", 0, "address"), "00" * 20),
        (("validators", "validators", 0, "pub_key", "type"), "tendermint/PubKeySecp256k1"),
        (("validators", "validators", 0, "pub_key", "value"), "AAAA"),
        (("validators", "total"), "0"),
        (("validators", "total"), "10001"),
    ],
)
def test_invalid_fields_are_malformed(path, value):
    answers = copy.deepcopy(VECTORS)
    place = answers[1]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with refuses("malformed: http://node"):
        make_http_provider(answers).get_light_block(2)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, content=b'"\xff"'),
        httpx.Response(200, content=b"[" * 5000),
        httpx.Response(200, json=[]),
        httpx.Response(500, json={"error": {"data": "height 99 must be less than or equal to the current 5"}}),
        httpx.Response(502, content=b"bad gateway"),
    ],
)
def test_invalid_answers_that_are_no_rpc_are_transport_errors(response):
    with pytest.raises(TransportError, match="http://node"):
        make_provider(lambda _: response).get_light_block(1)


def test_invalid_connection_is_a_transport_error():
    def fail(request):
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(TransportError, match="http://node does not answer"):
        make_provider(fail).get_light_block(1)


def test_boundary_of_the_size_of_an_answer(monkeypatch):
    content = json.dumps({"result": VECTORS[0]["commit"]}).encode()

    def answer(request):
        found = content if request.url.path == "/commit" else json.dumps({"result": VECTORS[0]["validators"]}).encode()
        return httpx.Response(200, content=found)

    expected = load_recorded()[0]
    monkeypatch.setattr(light_rpc, "MAX_ANSWER_BYTES", len(content))
    assert make_provider(answer).get_light_block(1) == expected
    monkeypatch.setattr(light_rpc, "MAX_ANSWER_BYTES", len(content) - 1)
    with refuses("malformed"):
        make_provider(answer).get_light_block(1)


@given(st.data())
def test_invalid_bytes_of_an_answer_never_escape_as_another_error(data):
    content = bytearray(json.dumps({"result": VECTORS[0]["commit"]}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    def answer(request):
        found = bytes(content) if request.url.path == "/commit" else json.dumps({"result": VECTORS[0]["validators"]})
        return httpx.Response(200, content=found)

    # A change in a hash or a signature still reads well; that it is found later is tested with the client.
    with suppress(InvalidBlock, TransportError):
        check_light_block(make_provider(answer).get_light_block(1))
