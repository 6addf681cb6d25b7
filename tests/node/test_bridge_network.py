"""Test dollars into a network of processes and out of it again, by commands only; the other chain is a real node of it."""

from __future__ import annotations

import json
import re
import time

import msgspec
import pytest
from anvil import CHAIN, call_data, compile_contracts, pack, run_anvil, unhex
from typer.testing import CliRunner

from paceline.cli.bridge_setup import parse_bridge
from paceline.cli.main import app
from paceline.ledger.bridge import DEPOSIT_TOPIC
from paceline.node.home import NewHome, create_home, write_secret
from paceline.node.settings import BridgeSettings, load_settings
from paceline.node.supervisor import Listen, Supervisor

NODES = 4
PAYER = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""Anvil's first account; whoever starts it has the key."""
MINT = "mint(address,uint256)"
DOLLAR = 10**6


def run(*words):
    done = CliRunner().invoke(app, ["bridge", *words], env={"COLUMNS": "80"})
    return done.exit_code, done.stdout + done.stderr


def must(*words):
    code, told = run(*words)
    assert code == 0, told
    return told


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Both chains: anvil with the contract and its attesters, and a network whose nodes read it."""
    folder = tmp_path_factory.mktemp("bridge")
    with run_anvil(compile_contracts(), "--slots-in-an-epoch", "1") as node:
        keys = [folder / f"attester-{number}" for number in range(1, NODES + 1)]
        attesters = [re.search("0x[0-9a-fA-F]{40}", must("key", str(key)))[0] for key in keys]
        token = node.deploy("TestDollar")
        contract = node.deploy("PacelineBridge", pack(token, attesters, [1] * NODES))
        bridge = parse_bridge(f"{CHAIN}:{contract}")
        home = create_home(folder / "home", NewHome(nodes=NODES, seed=5, bridge=bridge))
        for name in home.node_names():
            former = load_settings(home.node_path(name) / "node.toml")
            quick = BridgeSettings(poll_seconds=0.3)
            home.save_settings(msgspec.structs.replace(former, serves=False, trains=False, bridge=quick))
        # One attester stays away: three of four are more than two thirds.
        for key, name in list(zip(keys, home.node_names(), strict=True))[:-1]:
            must("key", str(key), "--attester", name, "--home", str(home.path))
        url = str(node.http.base_url)
        must("watch", url, "--home", str(home.path))
        write_secret(folder / "payer", PAYER)
        node.send(node.accounts[0], token, call_data(MINT, node.accounts[0], 100 * DOLLAR))
        with Supervisor(home, Listen(port=0)):
            yield Place(node, home, token, contract, url, folder / "payer")


class Place:
    def __init__(self, node, home, token, contract, url, payer):
        self.node, self.home, self.token, self.contract = node, home, token, contract
        self.where = ("--home", str(home.path))
        self.rpc = ("--rpc", url)
        self.payer = ("--key-file", str(payer))

    def ask(self, *words):
        return json.loads(must(*words, *self.where, "--json"))

    def get_tokens(self, address):
        return int.from_bytes(self.node.read(self.token, call_data("balanceOf(address)", address)), "big")

    def claim_when_attested(self, transaction):
        deadline = time.monotonic() + 60
        while True:
            code, told = run("claim", transaction, *self.rpc, *self.where, "--yes", "--json")
            if code == 0:
                return json.loads(told)["deposits"]
            assert "is not attested yet" in told and time.monotonic() < deadline, told
            time.sleep(0.5)


@pytest.mark.long
@pytest.mark.timeout(500)
def test_dollars_come_in_and_go_out_by_commands_only(place):
    node, to = place.node, place.node.accounts[7]
    # In: a wallet's transactions as printed, and then by a key.
    plan = place.ask("deposit", "30 tUSD", *place.rpc)
    assert [call["what"] for call in plan["calls"]] == ["approve", "deposit"] and place.get_tokens(place.contract) == 0
    sent = place.ask("deposit", "30 tUSD", *place.rpc, *place.payer, "--yes")["sent"]
    assert [call["what"] for call in sent] == ["approve", "deposit"]
    assert place.get_tokens(place.contract) == 30 * DOLLAR
    transaction = sent[-1]["transaction"]
    number = int(node.wait(transaction)["blockNumber"], 16)

    # The block is not final, so nobody attests it and nobody can claim.
    code, told = run("claim", transaction, *place.rpc, *place.where, "--yes")
    assert code == 2 and f"block {number} is not attested yet" in told and told.count("\n") == 1
    for _ in range(3):
        node.call("evm_mine")
    (line,) = place.claim_when_attested(transaction)
    assert (line["amount"], line["block"]) == (30 * DOLLAR, number)
    found = place.ask("status")
    assert (found["dollars"], found["outstanding"], found["last_attested"]) == (30 * DOLLAR, 30 * DOLLAR, number)
    assert found["watch"]["trouble"] == "" and found["watch"]["next"] > number
    code, told = run("claim", transaction, *place.rpc, *place.where, "--yes")
    assert code == 2 and "credited already" in told

    # Only blocks with deposits were attested.
    topic = "0x" + DEPOSIT_TOPIC.hex()
    logs = node.call("eth_getLogs", {"fromBlock": "0x0", "address": place.contract, "topics": [topic]})
    assert found["attested"] == len({log["blockNumber"] for log in logs}) == 1

    # Out.
    code, told = run("withdraw", "12.5 tUSD", to, *place.where, "--dry-run")
    assert code == 0 and "Burns     12.5 tUSD here" in told and "Nothing was sent." in told
    burnt = place.ask("withdraw", "12.5 tUSD", to, "--yes")
    assert burnt["number"] == 0 and place.ask("status")["dollars"] == 17_500_000
    printed = place.ask("collect", "0", *place.rpc)
    assert printed["signed_ppm"] == 750_000 and "node-4 has no attester's key" in printed["troubles"][0]
    assert place.get_tokens(to) == 0
    told = must("collect", "0", *place.rpc, *place.payer, *place.where, "--yes")
    assert "Signed    by 75.0 % of the attesters' power" in told and "Sent      release: 0x" in told
    assert place.get_tokens(to) == 12_500_000 and place.get_tokens(place.contract) == 17_500_000
    code, told = run("collect", "0", *place.rpc, *place.where)
    assert code == 2 and "withdrawal 0 is paid already" in told

    # A second one, paid by what was printed: any wallet can send it.
    number = place.ask("withdraw", "1 tUSD", to, "--yes")["number"]
    (call,) = place.ask("collect", str(number), *place.rpc)["calls"]
    node.send(node.accounts[3], call["to"], call["data"])
    assert place.get_tokens(to) == 13_500_000
    code, told = run("collect", "7", *place.rpc, *place.where)
    assert code == 2 and "nothing was burnt under number 7" in told
    assert unhex(place.contract) == place.home.load_genesis().params.bridge.contract
