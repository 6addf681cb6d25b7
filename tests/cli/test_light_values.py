"""Values by name from a light client: what is asked of the node, and every lie about a value is refused with a code."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from light_chain import NOW, make_block, make_set

from paceline.base.errors import ConfigError, InvalidBlock, TransportError
from paceline.cli import light_values
from paceline.cli.light_values import Question, answer_question, list_lines, make_fetch
from paceline.engine.light import LightClient, TrustRules
from paceline.engine.light_rpc import HttpLightProvider
from paceline.ledger.accounts import ACCOUNTS, Account
from paceline.ledger.groups import CURRENT, GROUP_KEYS, make_number_key
from paceline.ledger.nodes import NAMES, NODES, Node
from paceline.protocol.codec import encode
from paceline.store.trie import Trie

ALICE, NODE = b"a" * 20, b"n" * 20
RECORD = Node("node-1", b"p" * 32, b"c" * 32, b"g" * 48, 7, 250_000_000, ())
PAIRS = {
    ACCOUNTS.make_state_key(ALICE): encode(Account(1_500_000_000, 3)),
    NAMES.make_state_key(b"node-1"): encode(NODE),
    NODES.make_state_key(NODE): encode(RECORD),
    CURRENT.make_state_key(): encode(4),
    GROUP_KEYS.make_state_key(make_number_key(4)): encode(b"k" * 96),
}
TRIE = Trie().with_changes(PAIRS)
HEIGHT = 5


class Engine:
    """An engine whose state is PAIRS at HEIGHT; `lie` changes what it answers to a query."""

    def __init__(self, lie=lambda answer, key: answer, root=TRIE.root, headers=HEIGHT + 1):
        self.lie = lie
        self.asked = []
        self.headers = headers
        self.blocks = {
            1: make_block(1, make_set([10])),
            HEIGHT + 1: make_block(HEIGHT + 1, make_set([10]), app_hash=root),
        }
        self.provider = HttpLightProvider("http://node", httpx.MockTransport(self.answer))
        self.provider.get_light_block = self.get_light_block

    def get_light_block(self, height):
        if height > self.headers:
            self.headers += 1
            raise TransportError(f"no height {height} yet")
        return self.blocks[height]

    def answer(self, request):
        assert request.url.path == "/abci_query"
        assert (request.url.params["path"], request.url.params["prove"]) == ('"/state"', "true")
        key = bytes.fromhex(request.url.params["data"].removeprefix("0x"))
        self.asked.append(key)
        data = base64.b64encode(encode(TRIE.prove(key))).decode()
        value = PAIRS.get(key)
        response = {
            "code": 0,
            "height": str(HEIGHT),
            "value": None if value is None else base64.b64encode(value).decode(),
            "proofOps": {"ops": [{"type": "paceline:trie", "key": "", "data": data}]},
        }
        body = {"jsonrpc": "2.0", "id": -1, "result": {"response": self.lie(response, key)}}
        return httpx.Response(200, content=msgspec.json.encode(body))

    def ask(self, **question):
        rules = TrustRules(trusting_period_seconds=86_400)
        client = LightClient(self.blocks[1], self.provider, rules)
        return answer_question(Question(**question), make_fetch(client, self.provider))


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(light_values, "get_unix_milliseconds", lambda: NOW)
    monkeypatch.setattr(light_values, "POLL_SECONDS", 0.0)


def test_an_account_by_address():
    lines = list(list_lines(Engine().ask(account=ALICE.hex())))
    assert lines[0] == f"account    {ALICE.hex()} holds 1.500000000 coins"
    assert lines[-1].startswith("as of      height 5")


def test_an_account_that_never_was_is_proven_absent():
    assert "never held anything" in next(list_lines(Engine().ask(account="00" * 20)))


@pytest.mark.parametrize("named", ["node-1", NODE.hex()])
def test_a_node_by_name_or_address(named):
    engine = Engine()
    lines = list(list_lines(engine.ask(node=named)))
    assert lines[:3] == [
        f"node       node-1, {NODE.hex()}",
        "weight     7 hits, voting power 250,000,000",
        "guilty     never",
    ]
    assert len(engine.asked) == (2 if named == "node-1" else 1)


def test_nodes_that_are_none():
    assert "no node is called 'x'" in next(list_lines(Engine().ask(node="x")))
    assert "is no node" in next(list_lines(Engine().ask(node="00" * 20)))


def test_the_key_of_the_group_that_signs():
    assert next(list_lines(Engine().ask(group=True))) == f"group      4, key {(b'k' * 96).hex()}"


def test_any_key_in_hex_also_when_the_header_comes_later():
    key = CURRENT.make_state_key()
    answer = Engine(headers=HEIGHT - 2).ask(key=key)
    assert next(list_lines(answer)) == f"state      {key.hex()} = {encode(4).hex()}"


def test_invalid_address():
    for text in ("xyz", "00" * 19, ""):
        with pytest.raises(ConfigError, match="40 hex digits"):
            Engine().ask(account=text)


def replace(**fields):
    return lambda answer, _: {**answer, **fields}


def prove_another(answer, _):
    data = base64.b64encode(encode(TRIE.prove(CURRENT.make_state_key()))).decode()
    return {**answer, "proofOps": {"ops": [{"type": "paceline:trie", "key": "", "data": data}]}}


def cut(answer, _):
    data = base64.b64decode(answer["proofOps"]["ops"][0]["data"])[:-3]
    op = {"type": "paceline:trie", "key": "", "data": base64.b64encode(data).decode()}
    return {**answer, "proofOps": {"ops": [op]}}


def drop_a_fork(answer, key):
    proof = TRIE.prove(key)
    data = base64.b64encode(encode(proof._replace(forks=proof.forks[:-1]))).decode()
    return {**answer, "proofOps": {"ops": [{"type": "paceline:trie", "key": "", "data": data}]}}


RICH = base64.b64encode(encode(Account(10**18, 3))).decode()


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (replace(value=RICH), "state-proof"),
        (replace(value=None), "state-proof"),
        (prove_another, "state-proof"),
        (drop_a_fork, "state-proof"),
        (cut, "malformed"),
        (replace(proofOps=None), "malformed"),
        (replace(proofOps={"ops": []}), "malformed"),
        (replace(proofOps={"ops": [{"type": "ics23:iavl", "data": ""}]}), "malformed"),
        (replace(height="-1"), "malformed"),
        (replace(height="x"), "malformed"),
        (replace(value="%%"), "malformed"),
    ],
)
def test_invalid_value_or_proof(lie, code):
    with pytest.raises(InvalidBlock) as refused:
        Engine(lie).ask(account=ALICE.hex())
    assert refused.value.code == code


def test_invalid_absent_account_shown_as_present():
    with pytest.raises(InvalidBlock) as refused:
        Engine(replace(value=RICH)).ask(account="00" * 20)
    assert refused.value.code == "state-proof"


def test_invalid_old_state_under_a_new_header():
    newer = TRIE.with_changes({ACCOUNTS.make_state_key(ALICE): encode(Account(0, 4))})
    with pytest.raises(InvalidBlock) as refused:
        Engine(root=newer.root).ask(account=ALICE.hex())
    assert refused.value.code == "state-proof"


def test_invalid_node_that_has_no_such_query():
    with pytest.raises(TransportError, match="does not tell its state: unknown path"):
        Engine(replace(code=1, log="unknown path")).ask(group=True)
