"""`paceline beacon verify`: asks real peers over HTTP, believes none of them, and says what it rests on."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).parents[1] / "network"))
sys.path.insert(0, str(Path(__file__).parents[1] / "node"))

from light_state_rpc import StateRpc
from peer_servers import serve
from role_setup import GENESIS, KEYS, make_state

from paceline.base.bls import EncryptionKey, multiply_generator, sign
from paceline.cli import beacon as command
from paceline.cli import light_client
from paceline.cli.main import app
from paceline.ledger import beacon, groups
from paceline.network.server import PeerIdentity, create_peer_app
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.beacon_answers import BeaconAnswer, answer_beacon
from paceline.protocol.codec import decode, encode
from paceline.protocol.genesis import compute_chain_id
from paceline.protocol.messages import PostPartials
from paceline.protocol.params import TINY
from paceline.store.blobs import BlobStore

CHAIN_ID = compute_chain_id(GENESIS)
HEIGHT = 10


def make_signed_state():
    state = make_state(height=HEIGHT + 1)
    index = HEIGHT // TINY.beacon_interval
    text = beacon.compute_message(CHAIN_ID, beacon.HEIGHT, index, 1)
    for key in KEYS[:3]:
        partials = CeremonyKey(key.address, key.secret).sign(state, groups.get_current(state), text)
        message = PostPartials(beacon.HEIGHT, index, 1, partials)
        beacon.apply_partials(state, TINY, CHAIN_ID, key.address, message, 0)
    return state


STATE = make_signed_state()


def answer_honestly(body):
    return answer_beacon(STATE, TINY, body)


def change_answer(**changes):
    """A node that answers something else; fields of the signed value and of the answer."""

    def answer(body):
        found = decode(BeaconAnswer, answer_honestly(body), limit_bytes=2_000)
        ours = {name: changes[name] for name in ("group_key", "bounds") if name in changes}
        inner = {name: changes[name] for name in ("value", "signature", "group") if name in changes}
        return encode(msgspec.structs.replace(found, signed=msgspec.structs.replace(found.signed, **inner), **ours))

    return answer


def make_other_group(group=2, secret=b"2"):
    """A value that holds against a key which is not the network's: made by whoever answers, all alone."""
    key = EncryptionKey.from_secret(secret * 32)
    text = beacon.compute_message(CHAIN_ID, beacon.HEIGHT, HEIGHT // TINY.beacon_interval, group)
    signature = sign(key.scalar, text)
    return change_answer(
        group=group,
        signature=signature,
        value=beacon.compute_value(signature),
        group_key=multiply_generator(key.scalar).to_compressed_bytes(),
    )


@contextmanager
def serve_nodes(answers, folder):
    """Nodes of the genesis by number, each with its own way to answer; yields what to say after --peer."""
    started, stop, urls = threading.Event(), threading.Event(), {}

    def make_app(number, answer):
        async def on_beacon(request):
            return answer(request.body)

        identity = PeerIdentity(address=KEYS[number - 1].address, chain_id=CHAIN_ID)
        return create_peer_app({"beacon": on_beacon}, blobs=BlobStore(folder / str(number)), identity=identity)

    async def run(left):
        if not left:
            started.set()
            await asyncio.to_thread(stop.wait, 60)
            return
        (number, answer), *others = left
        async with serve(make_app(number, answer)) as url:
            urls[number] = url
            await run(others)

    thread = threading.Thread(target=lambda: asyncio.run(run(list(answers.items()))))
    thread.start()
    try:
        assert started.wait(30)
        yield [part for number, url in urls.items() for part in ("--peer", f"node-{number}={url}")]
    finally:
        stop.set()
        thread.join(30)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command over a folder that holds nothing but the genesis."""
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "genesis.bin").write_bytes(encode(GENESIS))

    def call(*arguments, height=HEIGHT):
        words = ["beacon", "verify", "--height", str(height), "--home", str(tmp_path), *arguments]
        return CliRunner().invoke(app, words)

    return call


def test_a_value_is_verified_with_nothing_but_the_genesis(run, tmp_path):
    with serve_nodes({1: answer_honestly, 4: answer_honestly}, tmp_path) as peers:
        result = run(*peers, "--json")
        shown = run(*peers)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.output)
    assert report["value"] == beacon.get_value(STATE, 2).hex()
    assert report["agreeing"] == ["node-1", "node-4"]
    assert (report["group"], report["key_source"]) == (1, command.FROM_GENESIS)
    assert report["group_key"] == groups.get_group_key(STATE, 1).hex()
    assert f"verified   height {HEIGHT} of {CHAIN_ID}" in shown.output
    assert "26 of 50 slots sign" in shown.output


def test_liars_and_silent_nodes_are_named_and_the_others_suffice(run, tmp_path):
    answers = {
        1: answer_honestly,
        2: change_answer(value=bytes(32)),
        3: change_answer(signature=bytes(48)),
        4: lambda _: b"nonsense",
    }
    with serve_nodes(answers, tmp_path) as peers:
        result = run(*peers, "--peer", "node-5=http://127.0.0.1:1", "--json")
    report = json.loads(result.output)
    assert report["agreeing"] == ["node-1"]
    assert [failure["node"] for failure in report["wrong"]] == ["node-2", "node-3"]
    assert [failure["node"] for failure in report["silent"]] == ["node-4", "node-5"]


def test_invalid_answers_alone_fail(run, tmp_path):
    with serve_nodes({1: change_answer(value=bytes(32)), 2: make_other_group(group=1)}, tmp_path) as peers:
        result = run(*peers)
    assert result.exit_code == 1
    assert "bad-signature" in result.stderr


def test_a_made_up_group_passes_for_nothing_beside_an_honest_node(run, tmp_path):
    with serve_nodes({1: answer_honestly, 2: make_other_group()}, tmp_path) as peers:
        result = run(*peers)
        pinned = run(*peers, "--group-key", groups.get_group_key(STATE, 1).hex(), "--json")
    assert result.exit_code == 1
    assert "two-values" in result.stderr
    report = json.loads(pinned.output)
    assert (report["agreeing"], report["key_source"]) == (["node-1"], command.PINNED)
    assert [failure["node"] for failure in report["wrong"]] == ["node-2"]


def test_the_key_of_a_later_group_is_said_to_be_the_nodes_word(run, tmp_path):
    with serve_nodes({2: make_other_group()}, tmp_path) as peers:
        result = run(*peers)
    assert result.exit_code == 0
    assert command.TOLD in result.output


@pytest.fixture
def prove(monkeypatch):
    """The options that let a node's state prove keys."""

    def start(chain_id=CHAIN_ID, change=lambda _: None):
        rpc = StateRpc(dict(STATE.iterate(b"")), chain_id=chain_id, change=change)
        monkeypatch.setattr(light_client, "HttpLightProvider", lambda _: rpc)
        now = rpc.blocks[max(rpc.blocks)].header.unix_nanoseconds // 1_000_000 + 1
        monkeypatch.setattr(light_client, "get_unix_milliseconds", lambda: now)
        return ("--rpc", "http://node", *rpc.trust)

    return start


def test_the_state_proves_the_key_and_a_made_up_group_is_found_out(run, tmp_path, prove):
    """Without the proof the made-up group alone passes, as told; beside an honest node nothing passes at all."""
    with serve_nodes({1: answer_honestly, 2: make_other_group()}, tmp_path) as peers:
        result = run(*peers, *prove(), "--json")
        alone = run(*peers[2:], *prove())
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.output)
    assert (report["agreeing"], report["key_source"]) == (["node-1"], command.PROVEN)
    assert [failure["node"] for failure in report["wrong"]] == ["node-2"]
    assert report["group_key"] == groups.get_group_key(STATE, 1).hex()
    assert alone.exit_code == 1 and "bad-signature" in alone.stderr


def test_invalid_state_of_another_chain_or_with_a_wrong_key(run, tmp_path, prove):
    with serve_nodes({1: answer_honestly}, tmp_path) as peers:
        other = run(*peers, *prove(chain_id="other-1"))
        lied = run(*peers, *prove(change=lambda response: response.update(value="xAEA")))
    assert other.exit_code == 1 and "wrong-chain" in other.stderr
    assert lied.exit_code == 1 and "state-proof" in lied.stderr


def test_two_keys_of_one_group_are_refused(run, tmp_path):
    with serve_nodes({2: make_other_group(), 3: make_other_group(secret=b"3")}, tmp_path) as peers:
        result = run(*peers)
    assert result.exit_code == 1
    assert "two-keys" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "height", "told"),
    [
        ((), HEIGHT + 1, "every 5th, such as 10"),
        ((), 3, "such as 5"),
        ((), HEIGHT, "nothing runs in"),
        (("--group-key", "xy"), HEIGHT, "is not hex"),
        (("--group-key", "00" * 95), HEIGHT, "has 95 bytes"),
        (("--peer", "node-9=http://127.0.0.1:1"), HEIGHT, "no node of the genesis"),
        (("--peer", "node-1"), HEIGHT, "name=http://host:port"),
        (("--rpc", "http://node"), HEIGHT, "belong together"),
        (("--trust-height", "1", "--trust-hash", "00" * 32), HEIGHT, "belong together"),
        (("--rpc", "node", "--trust-height", "1", "--trust-hash", "00" * 32), HEIGHT, "is not an address"),
        (("--rpc", "http://node", "--trust-height", "1", "--trust-hash", "00"), HEIGHT, "has 1 bytes"),
        (
            ("--group-key", "00" * 96, "--rpc", "http://node", "--trust-height", "1", "--trust-hash", "00" * 32),
            HEIGHT,
            "give one of them",
        ),
    ],
)
def test_invalid_options_are_refused_before_anybody_is_asked(run, arguments, height, told):
    result = run(*arguments, height=height)
    assert result.exit_code == 2
    assert told in result.stderr


def test_invalid_home_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    result = CliRunner().invoke(app, ["beacon", "verify", "--height", "5", "--home", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "holds no network" in result.stderr


def test_nobody_answers(run):
    result = run("--peer", "node-1=http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "no node answered for height 10" in result.stderr
