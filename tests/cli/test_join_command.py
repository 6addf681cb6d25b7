"""A second home joins a running network with the commands a person would type, and works in the next epoch."""

from __future__ import annotations

import socket

import pytest
from joined_network import BRIEF, LOOPBACK, open_network, run_command, run_join, take_ports, wait_for

from paceline.cli.network import ControlClient
from paceline.cli.status import load_status
from paceline.node.settings import SOLO, load_settings

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("network") / "home"
        with open_network(path, 2, engine=SOLO, monkeypatch=patch) as running:
            yield running


def advance(home, height):
    running = home.load_running()
    client = ControlClient(running.web_url, home.load_token())
    try:
        client.post("/advance", {"height": height}, dict[str, int])
    finally:
        client.close()


def find_power(home, name):
    return next((node.voting_power for node in load_status(home).nodes if node.name == name), None)


def join_in_vain(url, path, *arguments):
    code, told = run_command("join", url, "--home", str(path), "--name", "late", *arguments)
    assert code in {1, 2}
    assert not path.exists()
    # Tables wrap; what counts is the words.
    return " ".join(told.replace("│", " ").split())


@pytest.mark.timeout(180)
def test_a_newcomer_joins_is_sponsored_races_and_keeps_its_place_over_a_restart(network, tmp_path):
    home, url = network
    with run_join(url, tmp_path / "new", tmp_path / "log", "--name", "newcomer") as (mine, own_url):
        assert find_power(mine, "newcomer") is None
        assert "newcomer is not registered yet" in " ".join(run_command("status", "--home", str(mine.path))[1].split())
        code, told = run_command("sponsor", own_url, "--home", str(home.path), "--yes")
        assert code == 0 and "newcomer is a node since height" in told, told
        wait_for(lambda: find_power(mine, "newcomer") == 0, 30)
        code, told = run_command("sponsor", own_url, "--home", str(home.path), "--yes")
        assert code == 2 and "already" in told
        epoch_end = (load_status(home).height // BRIEF.epoch_blocks + 1) * BRIEF.epoch_blocks
        advance(home, epoch_end)
        wait_for(lambda: (find_power(home, "newcomer") or 0) > 0, 60)
        wait_for(lambda: (find_power(mine, "newcomer") or 0) > 0, 10)
        # Those who were there learned from the ledger where it is.
        assert load_settings(mine.node_path("newcomer") / "node.toml").public_url == own_url
        code, told = run_command("leave", "newcomer", "--home", str(home.path))
        assert code == 2 and "a sponsor takes out only what" in told
        code, told = run_command("leave", "nobody", "--home", str(home.path))
        assert code == 2 and "no node is called 'nobody'" in told
    # Down: its home remembers, and `join` does not make a second node of it.
    assert find_power(mine, "newcomer") > 0
    code, told = run_command(
        "join", url, "--home", str(mine.path), "--name", "other", "--peer-port", str(take_ports(2))
    )
    assert code == 2 and "holds a network already" in told


@pytest.mark.timeout(120)
def test_invalid_what_the_self_test_finds_is_named_with_its_remedy_and_nothing_is_written(network, tmp_path):
    home, url = network
    path = tmp_path / "late"
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = join_in_vain(url, path, "--name", "node-1", "--peer-port", port, "--chain-id", "other-1")
    assert "taken: choose another with --name" in told
    assert "choose another with --peer-port" in told
    assert "this is not other-1" in told
    assert "not ready to join: chain, name, ports; nothing was written" in told
    web = home.load_running().web_url
    assert "is no node's address" in join_in_vain(web, path)
    assert "does not answer" in join_in_vain(f"http://{LOOPBACK}:1", path)
    assert "is no address" in join_in_vain("node-1", path)
    assert "--name 'A B'" in join_in_vain(url, path, "--name", "A B")
    assert "--advertise 'http://x'" in join_in_vain(url, path, "--advertise", "http://x")


@pytest.mark.timeout(60)
def test_a_check_writes_nothing(network, tmp_path):
    _, url = network
    path = tmp_path / "new"
    code, told = run_command("join", url, "--check", "--home", str(path), "--peer-port", str(take_ports(2)))
    assert code == 0 and "Ready to join" in told, told
    assert not path.exists()
