"""`paceline light verify`: what it prints, and what it refuses before it asks anybody."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from light_chain import NOW, load_recorded, load_vectors, make_block, make_http_provider, make_set

from paceline.cli import light, light_client
from paceline.cli.main import app
from paceline.engine.light_rpc import HttpLightProvider
from paceline.engine.light_state import encode_state_proof
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
