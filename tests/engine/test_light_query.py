"""Values with proofs over CometBFT's RPC: what is asked, and what of the answer is refused before any hash is computed."""

from __future__ import annotations

import base64

import httpx
import pytest
from light_chain import refuses

from paceline.base.errors import TransportError
from paceline.engine.light_query import MAX_PROOF_BYTES, Evidence, HttpStateProvider
from paceline.engine.light_rpc import HttpLightProvider
from paceline.protocol.codec import encode
from paceline.store.trie import Trie, TrieProof

TRIE = Trie().with_changes({b"key": b"value", b"other": b"x"})
PROOF = TRIE.prove(b"key")


def render(data):
    return None if data is None else base64.b64encode(data).decode()


def make_answer(value=b"value", proof=None, **fields):
    ops = [{"type": "paceline:trie", "key": render(b"key"), "data": render(encode(PROOF) if proof is None else proof)}]
    return {"code": 0, "log": "", "value": render(value), "height": "5", "proofOps": {"ops": ops}, **fields}


def ask(response, key=b"key", asked=None):
    def answer(request):
        if asked is not None:
            asked.append(str(request.url))
        return httpx.Response(200, json={"result": {"response": response}})

    rpc = HttpLightProvider("http://node", httpx.MockTransport(answer))
    assert HttpStateProvider(rpc).name == "http://node"
    return HttpStateProvider(rpc).get_evidence(key)


def test_a_value_is_asked_for_with_its_proof():
    asked = []
    assert ask(make_answer(), asked=asked) == Evidence(5, b"value", PROOF)
    assert asked == ["http://node/abci_query?path=%22%2Fstate%22&data=0x6b6579&prove=true"]


@pytest.mark.parametrize("value", [None, b""])
def test_no_value(value):
    assert ask(make_answer(value)).value is None


def test_boundary_of_the_height():
    assert ask(make_answer(height=str(2**63 - 2))).height == 2**63 - 2
    for height in (str(2**63 - 1), "-1", "five"):
        with refuses("malformed"):
            ask(make_answer(height=height))


@pytest.mark.parametrize(
    "ops",
    [
        None,
        {"ops": []},
        {"ops": make_answer()["proofOps"]["ops"] * 2},
        {"ops": [{"type": "ics23:iavl", "data": ""}]},
        {"ops": [{"type": "paceline:trie", "data": None}]},
        {"ops": None},
    ],
)
def test_invalid_number_or_kind_of_proofs(ops):
    with refuses("malformed"):
        ask(make_answer(proofOps=ops))


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (encode(PROOF)[:-1], "malformed"),
        (b"\x00", "malformed"),
        (encode((b"", b"", ((1, 2),))), "malformed"),
        (encode(PROOF) + b"\x00", "malformed"),
        (b"\xdc\x00\x03" + encode(PROOF)[1:], "non-canonical"),
        (bytes(MAX_PROOF_BYTES + 1), "too-large"),
    ],
)
def test_invalid_bytes_of_a_proof(proof, code):
    with refuses(f"{code}: http://node"):
        ask(make_answer(proof=proof))


def test_boundary_of_the_size_of_a_proof():
    """The deepest proof that can hold still fits."""
    deepest = TrieProof(bytes(32), bytes(32), tuple((bit, bytes(32)) for bit in range(255, -1, -1)))
    assert ask(make_answer(proof=encode(deepest))).proof == deepest


def test_invalid_question_is_refused_by_the_node():
    with pytest.raises(TransportError, match="http://node refuses to say a value: unknown path"):
        ask({"code": 1, "log": "unknown path; ask /state", "height": "5"})
