"""`paceline light verify`: what it prints, and what it refuses before it asks anybody."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

sys.path.insert(0, str(Path(__file__).parents[1] / "node"))

from light_chain import NOW, load_recorded, load_vectors, make_block, make_http_provider, make_set
from light_state_rpc import HEIGHT, StateRpc
from role_setup import FUNDS, KEYS, USER, make_state

from paceline.cli import light, light_client
from paceline.cli.main import app
from paceline.engine.light_rpc import HttpLightProvider
from paceline.engine.light_state import encode_state_proof
from paceline.ledger import groups
from paceline.store.trie import Trie

VECTORS = load_vectors()
RECORDED = load_recorded()
TRUSTED = RECORDED[0].header.compute_hash().hex()
LAST = RECORDED[-1].header
FORKED = make_block(1, make_set([1]))


def fail(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def set_clock(monkeypatch, unix_milliseconds):
    for module in (light, light_client):
        monkeypatch.setattr(module, "get_unix_milliseconds", lambda: unix_milliseconds)


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Addresses that were opened; `http://gone` does not answer, every other node has the recorded chain."""
    opened: list[str] = []

    def open_provider(url):
        opened.append(url)
        if url == "http://gone":
            return HttpLightProvider(url, httpx.MockTransport(fail))
        return make_http_provider(VECTORS, url)

    monkeypatch.setattr(light_client, "HttpLightProvider", open_provider)
    set_clock(monkeypatch, LAST.unix_nanoseconds // 1_000_000 + 1)
    monkeypatch.setenv("COLUMNS", "400")
    return opened


def run(*arguments, trust_hash=TRUSTED):
    command = ["light", "verify", "--url", "http://node", "--trust-height", "1", "--trust-hash", trust_hash]
    return CliRunner().invoke(app, [*command, *map(str, arguments)])


def test_latest_height_is_verified_across_the_change_of_power(asked):
    result = run("--witness", "http://second", "--witness", "http://gone", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.output)
    assert (report["height"], report["chain_id"]) == (LAST.height, "light-vectors")
    assert report["header_hash"] == LAST.compute_hash().hex()
    assert report["app_hash"] == LAST.app_hash.hex()
    assert report["path"][-1] == LAST.height
    assert report["agreeing"] == ["http://second"]
    assert [silent["url"] for silent in report["silent"]] == ["http://gone"]
    assert report["state"] is None
    assert asked == ["http://node", "http://second", "http://gone"]


def test_text_says_that_nobody_was_compared(asked):
    result = run("--height", 3)
    assert result.exit_code == 0
    assert RECORDED[2].header.compute_hash().hex() in result.output
    assert "add --witness URL" in result.output
    told = run("--height", 3, "--witness", "http://second", "--witness", "http://gone").output
    assert "http://second has the same header" in told and "http://gone did not answer" in told
    assert "add --witness URL" not in told


def test_value_of_the_state_is_verified_at_the_next_height(asked, monkeypatch, tmp_path):
    trie = Trie().with_changes({b"key": b"value", b"other": b"x"})
    block = make_block(6, make_set([10]), app_hash=trie.root)
    trusted = make_block(1, make_set([10]))

    class Node:
        name = "http://node"

        def get_light_block(self, height):
            return {1: trusted, 6: block}[height]

        def close(self):
            pass

    monkeypatch.setattr(light_client, "HttpLightProvider", lambda _: Node())
    set_clock(monkeypatch, NOW)
    path = tmp_path / "proof.json"
    path.write_bytes(encode_state_proof(5, b"value", trie.prove(b"key")))
    trust_hash = trusted.header.compute_hash().hex()
    arguments = ("--key", b"key".hex(), "--proof", path)
    report = json.loads(run(*arguments, "--json", trust_hash=trust_hash).output)
    assert report["state"] == {"key": b"key".hex(), "value": b"value".hex(), "height": 5}
    assert f"{b'key'.hex()} = {b'value'.hex()} as of height 5" in run(*arguments, trust_hash=trust_hash).output
    wrong = run("--key", b"other".hex(), "--proof", path, trust_hash=trust_hash)
    assert wrong.exit_code == 1 and "state-proof" in wrong.stderr
    elsewhere = run(*arguments, "--height", 5, trust_hash=trust_hash)
    assert elsewhere.exit_code == 2 and "--height 6" in elsewhere.stderr
    path.write_bytes(encode_state_proof(5, None, trie.prove(b"none")))
    assert "6e6f6e65 = no value" in run("--key", b"none".hex(), "--proof", path, trust_hash=trust_hash).output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--proof", "proof.json"), "--proof goes with --key"),
        (("--key", "00", "--proof", "proof.json", "--group"), "--proof goes with --key"),
        (("--key", "xy"), "--key 'xy' is not hex"),
        (("--key", "00", "--height", "3"), "--height does not go with values"),
        (("--group", "--height", "3"), "--height does not go with values"),
        (("--account", "00" * 19), "--account"),
        (("--account", "0x" + "00" * 19), "40 hex digits"),
        (("--key", "00", "--proof", "missing.json"), "missing.json cannot be read"),
        (("--witness", "http://node"), "cannot be its own witness"),
        (("--witness", "node:26657"), "is not an address"),
        (("--witness", "http://[::"), "is not an address"),
    ],
)
def test_invalid_options_are_refused_before_anybody_is_asked(asked, arguments, told):
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert asked == []


@pytest.mark.parametrize("trust_hash", ["xyz", "00" * 31, ""])
def test_invalid_trusted_hash_is_refused_before_anybody_is_asked(asked, trust_hash):
    result = run(trust_hash=trust_hash)
    assert result.exit_code == 2 and "--trust-hash" in result.stderr
    assert asked == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--trusting-period-seconds", "1"), "expired-trust"), (("--height", "99"), "no height 99")],
)
def test_invalid_chain_ends_with_one_line_and_code_1(asked, arguments, code):
    result = run(*arguments)
    assert result.exit_code == 1
    assert code in result.stderr and result.stderr.count("\n") == 1


def test_invalid_trusted_header_of_another_chain(asked):
    result = run(trust_hash=FORKED.header.compute_hash().hex())
    assert result.exit_code == 1 and "wrong-header" in result.stderr


STATE = make_state()
PAIRS = dict(STATE.iterate(b""))


@pytest.fixture
def ask_state(monkeypatch):
    """The command against a node with a state; its header is as old as the clock minus `age`."""
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments, age_seconds=1, change=lambda _: None):
        rpc = StateRpc(PAIRS, change=change)
        monkeypatch.setattr(light_client, "HttpLightProvider", lambda _: rpc)
        set_clock(monkeypatch, rpc.blocks[HEIGHT + 1].header.unix_nanoseconds // 1_000_000 + 1_000 * age_seconds)
        return CliRunner().invoke(app, ["light", "verify", "--url", "http://node", *rpc.trust, *arguments])

    return call


def test_named_values_are_proven_and_decoded(ask_state):
    arguments = ("--account", USER.address.hex(), "--node", "node-2", "--group", "--key", b"none".hex())
    result = ask_state(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.output)
    key = groups.get_group_key(STATE, 1).hex()
    assert report["account"] == {
        "address": USER.address.hex(),
        "balance_nicoin": FUNDS,
        "sequence": 0,
        "height": HEIGHT,
    }
    assert report["group"] == {"number": 1, "key": key, "height": HEIGHT}
    assert report["state"] == {"key": b"none".hex(), "value": None, "height": HEIGHT}
    node = report["node"]
    assert (node["name"], node["address"], node["weight"]) == ("node-2", KEYS[1].address.hex(), 1_000)
    assert node["voting_power"] == 200_000_000
    assert report["path"] == [HEIGHT + 1]
    text = ask_state(*arguments).output
    assert "holds 1,000.000000000 coins as of height 5" in text
    assert "node-2" in text and "voting power 200,000,000" in text
    assert "each proven under the header of the next height" in text
    assert f"group      1, key {key}" in text and "6e6f6e65 = no value" in text


def test_a_node_by_address_and_one_that_is_none(ask_state):
    assert "node-3" in ask_state("--node", KEYS[2].address.hex()).output
    for unknown, told in (("node-9", "no node has this name"), ("00" * 20, "no node has this address")):
        result = ask_state("--node", unknown)
        assert result.exit_code == 2 and told in result.stderr


def test_boundary_of_the_age_of_a_value(ask_state):
    assert ask_state("--group", age_seconds=60).exit_code == 0
    old = ask_state("--group", age_seconds=61)
    assert old.exit_code == 1 and "stale-state" in old.stderr
    assert ask_state("--group", "--max-age-seconds", "61", age_seconds=61).exit_code == 0


def test_invalid_value_ends_with_one_line_and_code_1(ask_state):
    result = ask_state("--account", USER.address.hex(), change=lambda response: response.update(value="kwEA"))
    assert result.exit_code == 1
    assert "state-proof" in result.stderr and result.stderr.count("\n") == 1


def test_invalid_chain_of_another_kind_has_no_group(monkeypatch):
    rpc = StateRpc({b"key": b"value"})
    monkeypatch.setattr(light_client, "HttpLightProvider", lambda _: rpc)
    set_clock(monkeypatch, NOW)
    arguments = ["light", "verify", "--url", "http://node", *rpc.trust, "--group", "--max-age-seconds", "9999"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "not a Paceline network" in result.stderr
