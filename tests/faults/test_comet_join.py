"""A fifth machine joins four CometBFT validators: state sync through a node's public port, sponsor, Race, voting power."""

from __future__ import annotations

import base64
import os
import signal

import httpx
import psutil
import pytest
from joined_network import open_network, run_command, run_join, wait_for

from paceline.cli.status import load_status
from paceline.node.settings import COMETBFT

pytestmark = pytest.mark.long


def ask(url, method, **params):
    """A read-only question to an engine through its node's public port."""
    reply = httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, timeout=10)
    return reply.raise_for_status().json()["result"]


def find_powers(url):
    found = ask(url, "validators", per_page="100")["validators"]
    return {base64.b64decode(entry["pub_key"]["value"]): int(entry["voting_power"]) for entry in found}


def read_height(url):
    return int(ask(url, "status")["sync_info"]["latest_block_height"])


def has_engine_signed(url, address, height):
    commit = ask(url, "commit", height=str(height))["signed_header"]["commit"]
    return any(vote["validator_address"] == address for vote in commit["signatures"])


@pytest.mark.timeout(400)
def test_a_newcomer_syncs_its_state_becomes_a_validator_and_signs(tmp_path, monkeypatch):
    options = {"engine": COMETBFT, "monkeypatch": monkeypatch, "block_seconds": 0.3, "snapshot_blocks": 20}
    with open_network(tmp_path / "home", 4, **options) as (home, url):
        wait_for(lambda: read_height(url) > 45, 120)
        trusted = ask(url, "commit", height="3")["signed_header"]["commit"]
        powers = find_powers(url)
        with run_join(url, tmp_path / "new", tmp_path / "log", "--name", "newcomer") as (mine, own_url):
            assert b"State sync from the header of height" in (tmp_path / "log").read_bytes()
            # It did not replay: the first blocks are not there.
            wait_for(lambda: read_height(own_url) >= read_height(url) - 2, 60)
            assert int(ask(own_url, "status")["sync_info"]["earliest_block_height"]) > 1
            code, told = run_command("sponsor", own_url, "--home", str(home.path), "--yes")
            assert code == 0, told
            key = mine.load_consensus_key("newcomer").public_key
            wait_for(lambda: key in find_powers(url), 200)
            assert sum(find_powers(url).values()) == 1_000_000_000
            require_light_proofs(url, own_url, trusted, mine, find_powers(url)[key])
            assert sum(powers.values()) == 1_000_000_000 and key not in powers
            # Killed with -9, it comes back by itself and signs again.
            node = next(line for line in load_status(mine).nodes if line.name == "newcomer")
            assert node.voting_power == find_powers(url)[key]
            kill_node(mine)
            wait_for(lambda: answers(own_url), 60)
            address = ask(own_url, "status")["validator_info"]["address"]
            wait_for(lambda: has_engine_signed(url, address, read_height(url) - 1), 60)
            height = read_height(url) - 2
            hashes = {ask(each, "header", height=str(height))["header"]["app_hash"] for each in (url, own_url)}
            assert len(hashes) == 1


def require_light_proofs(url, witness, trusted, home, power):
    """From a header before the newcomer was known, across the Race that gave it power, with public data only."""
    command = ["light", "verify", "--url", url, "--trust-height", "3", "--trust-hash", trusted["block_id"]["hash"]]
    command += ["--witness", witness]
    address = home.load_key("newcomer").address.hex()
    code, told = run_command(*command, "--node", "newcomer")
    assert code == 0 and f"newcomer, {address}: weight" in told and f"voting power {power:,}" in told, told
    code, told = run_command(*command, "--account", address)
    assert code == 0 and "each proven under the header of the next height" in told, told
    code, told = run_command(*command, "--group")
    assert code == 0 and "key " in told, told
    forged = [part if part != trusted["block_id"]["hash"] else "00" * 32 for part in command]
    code, told = run_command(*forged, "--group")
    assert code == 1 and "wrong-header" in told, told


def kill_node(home):
    """kill -9 of the node process; its supervisor starts it again."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "node" in (process.info["cmdline"] or []) and str(home.path) in (process.info["cmdline"] or [])
    ]
    assert found
    for process in found:
        os.kill(process.pid, signal.SIGKILL)


def answers(url):
    try:
        ask(url, "status")
    except (httpx.HTTPError, KeyError):
        return False
    return True
