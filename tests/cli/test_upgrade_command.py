"""`paceline upgrade` as a person types it: votes with the keys of a home, the stop, and what is told afterwards."""

from __future__ import annotations

import json

import pytest
from joined_network import open_network, run_command, wait_for
from typer.testing import CliRunner

from paceline.cli.main import app
from paceline.cli.network import ControlClient
from paceline.ledger.state import State
from paceline.ledger.upgrades import compute_earliest
from paceline.node.exits import UPGRADE_CODE
from paceline.node.home import NewHome, create_home
from paceline.node.settings import SOLO
from paceline.store.state import SqliteStateStore


def run(*words):
    """(exit code, what it printed), without the start of another interpreter."""
    done = CliRunner().invoke(app, ["upgrade", *words])
    return done.exit_code, done.stdout + done.stderr


def ask(home):
    code, told = run("status", "--home", str(home.path), "--json")
    assert code == 0, told
    return json.loads(told)


def vote(home, *words):
    return run("vote", *words, "--home", str(home.path))


def get_heights(home):
    heights = []
    for name in home.node_names():
        store = SqliteStateStore(home.node_path(name) / "chain.sqlite", durable=False)
        heights.append(State(store, height=store.height).height)
        store.close()
    return heights


def advance(home, height):
    client = ControlClient(home.load_running().web_url, home.load_token())
    try:
        client.post("/advance", {"height": height}, dict[str, int])
    finally:
        client.close()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_votes_plan_an_upgrade_and_the_whole_home_stops_before_it(tmp_path):
    with (
        pytest.MonkeyPatch.context() as patch,
        open_network(tmp_path / "home", 2, engine=SOLO, monkeypatch=patch) as (home, _),
    ):
        height = compute_earliest(home.load_genesis().params, ask(home)["height"]) + 600
        code, told = vote(home, "v2", str(height))
        assert code == 0 and told.startswith(f"node-1 voted for planning v2 at height {height} (block "), told
        (ballot,) = ask(home)["votes"]
        # A Race may have moved the weights by now.
        assert 0 < ballot.pop("weight_ppm") < 660_000
        assert ballot == {"node": "node-1", "cancels": False, "name": "v2", "height": height}
        code, told = vote(home, "v2", str(height), "--name", "node-1")
        assert code == 2 and "already-voted" in told
        code, told = vote(home, "v2", "1", "--name", "node-2")
        assert code == 2 and "too-early" in told
        code, told = vote(home, "v2", str(height), "--name", "node-9")
        assert code == 2 and "this home has node-1, node-2" in told
        code, told = vote(home, "v2", str(height), "--name", "node-2")
        assert code == 0, told
        assert ask(home)["plan"] == {"name": "v2", "height": height, "is_known": False}
        advance(home, height + 10)
        logs = [home.node_path(name) / "node.log" for name in home.node_names()]
        wait_for(lambda: all(b"paceline: upgrade v2 begins at" in log.read_bytes() for log in logs), 60)
    assert get_heights(home) == [height - 1, height - 1]
    code, told = run("status", "--home", str(home.path))
    assert code == 0 and f"plan    v2 at height {height}, 1 from here; this software does not have it" in told, told
    code, told = run_command("up", "--home", str(home.path), "--port", "0")
    assert code == UPGRADE_CODE and f"paceline: upgrade v2 begins at height {height}" in told, told
    assert get_heights(home) == [height - 1, height - 1]


def test_invalid_vote_while_nothing_runs(tmp_path):
    home = create_home(tmp_path / "home", NewHome(nodes=2, seed=1))
    code, told = vote(home, "v2", "500")
    assert code == 2 and "does not run" in told
    assert ask(home) == {"height": 0, "plan": None, "votes": [], "done": []}


def test_invalid_folder_without_a_network(tmp_path):
    for words in (("vote", "v2", "500"), ("status",)):
        code, told = run(*words, "--home", str(tmp_path / "none"))
        assert code == 2 and told.count("\n") == 1, told
