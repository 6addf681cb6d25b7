"""Homes whose keys or state came out of a file take part in a running network again."""

from __future__ import annotations

import subprocess
import sys

import pytest
from joined_network import open_network, run_command, run_join, wait_for

from paceline.cli.status import load_status
from paceline.engine.signed_mark import read_signed_mark
from paceline.node.chains.state_files import describe_state, export_node_state, get_store_path, import_node_state
from paceline.node.home import Home
from paceline.node.settings import COMETBFT, SOLO
from paceline.node.supervisor import Listen, Supervisor
from paceline.store.snapshots import export_state
from paceline.store.state import MemoryStateStore, SqliteStateStore

pytestmark = pytest.mark.long


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", [SOLO, COMETBFT])
def test_a_machine_that_burnt_down_comes_back_from_its_backup_and_syncs(tmp_path, monkeypatch, engine):
    words, file = tmp_path / "words", tmp_path / "keys"
    words.write_text("correct horse battery\n")
    with open_network(tmp_path / "home", 2, engine=engine, monkeypatch=monkeypatch, snapshot_blocks=20) as (home, url):
        with run_join(url, tmp_path / "burnt", tmp_path / "log", "--name", "late") as (burnt, _):
            arguments = ("--to", str(file), "--passphrase-file", str(words), "--home", str(burnt.path))
            code, told = run_command("keys", "backup", *arguments)
            assert code == 0, told
        height = load_status(home).height
        arguments = ("--passphrase-file", str(words), "--yes", "--signed-through", str(height + 2))
        code, told = run_command("keys", "restore", str(file), "--home", str(tmp_path / "new"), *arguments)
        assert code == 0, told
        new = Home(tmp_path / "new")
        assert not get_store_path(new, "late").exists()
        with Supervisor(new, Listen(port=0)):
            wait_for(lambda: load_status(new).height > height + 5, 120)
        if engine == COMETBFT:
            assert read_signed_mark(new.node_path("late") / "engine").height >= height + 2


def drop_store(home, name):
    path = get_store_path(home, name)
    for part in path.parent.glob(path.name + "*"):
        part.unlink()


def run_node(home, name):
    """(exit code, log) of a node that is expected to end by itself."""
    command = [sys.executable, "-m", "paceline", "node", "--home", str(home.path), "--name", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            # The pipe stays open: its end would be the order to stop.
            told = child.stderr.read()
        finally:
            child.kill()
    return child.returncode, told


@pytest.mark.timeout(300)
def test_under_cometbft_the_engine_replays_from_an_imported_state_and_refuses_a_forged_one(tmp_path, monkeypatch):
    with open_network(tmp_path / "home", 1, engine=COMETBFT, monkeypatch=monkeypatch) as (home, _):
        wait_for(lambda: load_status(home).height > 8, 60)
    early = export_node_state(home, "node-1", tmp_path / "early")
    with Supervisor(home, Listen(port=0)):
        wait_for(lambda: load_status(home).height > early.height + 8, 60)
    late = describe_state(home, "node-1")
    drop_store(home, "node-1")
    assert import_node_state(home, "node-1", tmp_path / "early").app_hash == early.app_hash
    with Supervisor(home, Listen(port=0)):
        wait_for(lambda: load_status(home).height > late.height + 2, 60)
    # From one coin more the engine does not go on.
    store = SqliteStateStore(get_store_path(home, "node-1"), durable=False)
    forged, height = MemoryStateStore(), store.height
    pairs = sorted({**dict(store.iterate(b"")), b"one coin more": b"1"}.items())
    export_state(tmp_path / "forged", height, forged.stage(dict(pairs)), pairs, store.get_block(height))
    store.close()
    drop_store(home, "node-1")
    import_node_state(home, "node-1", tmp_path / "forged")
    code, told = run_node(home, "node-1")
    assert code != 0, told
    assert describe_state(home, "node-1").height == height
