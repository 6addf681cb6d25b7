"""The supervisor with stand-ins for nodes: starts, restarts, ends, and refuses what cannot work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import psutil
import pytest

from paceline.base.errors import ConfigError, TransportError
from paceline.node import supervisor
from paceline.node.home import NewHome, Running, create_home
from paceline.node.settings import load_settings
from paceline.node.supervisor import Listen, Supervisor

# Ends with its standard input, as a node does.
PATIENT = "#!/bin/sh\nexec cat >/dev/null\n"
STUBBORN = "#!/bin/sh\ntrap '' TERM\nwhile read -r _; do :; done\n"
BROKEN = "#!/bin/sh\necho paceline: no model here\nexit 3\n"


@pytest.fixture
def home(tmp_path):
    return create_home(tmp_path / "home", NewHome(nodes=2, seed=1))


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Make every node process run a script instead."""

    def use(script: str, *, ready: bool = True) -> None:
        path = tmp_path / "stand-in"
        path.write_text(script)
        path.chmod(0o755)
        monkeypatch.setattr(supervisor.sys, "executable", str(path))
        if ready:
            monkeypatch.setattr(Supervisor, "_wait_ready", lambda _: None)

    return use


def test_nodes_run_inside_the_block_only(home, stand_in):
    stand_in(PATIENT)
    with Supervisor(home, Listen(port=0)) as running:
        pids = running.get_pids()
        assert list(pids) == ["node-1", "node-2"]
        assert all(psutil.pid_exists(pid) for pid in pids.values())
        note = home.load_running()
        assert note is not None and note.pid == os.getpid() and note.web_url == running.web_url
        settings = load_settings(home.node_path("node-2") / "node.toml")
        assert [peer.url for peer in settings.peers] == [
            f"http://127.0.0.1:{note.ports[name]}" for name in ("node-1", "node-2")
        ]
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert home.load_running() is None


def test_what_dies_is_started_again(home, stand_in):
    stand_in(PATIENT)
    restarts = []
    with Supervisor(home, Listen(port=0)) as running:
        before = running.get_pids()
        os.kill(before["node-2"], signal.SIGKILL)
        running.watch(lambda: bool(restarts), lambda name, what: restarts.append((name, what)))
        after = running.get_pids()
        assert restarts == [("node-2", "ended (-9); restarting it")]
        assert after["node-1"] == before["node-1"]
        assert after["node-2"] != before["node-2"] and psutil.pid_exists(after["node-2"])


def test_who_does_not_listen_is_killed(home, stand_in, monkeypatch):
    stand_in(STUBBORN)
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.2)
    with Supervisor(home, Listen(port=0)) as running:
        pids = running.get_pids()
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


def test_invalid_node_that_ends_at_once_is_named_with_its_last_words(home, stand_in):
    stand_in(BROKEN, ready=False)
    with pytest.raises(TransportError, match=r"node-\d ended with code 3: paceline: no model here .*node.log"):
        Supervisor(home, Listen(port=0)).__enter__()
    assert home.load_running() is None


def test_nodes_end_when_their_supervisor_is_gone(home, stand_in):
    stand_in(PATIENT)
    with Supervisor(home, Listen(port=0)) as running:
        for child in running._children.values():
            child.stdin.close()
            child.wait(5)


def test_invalid_host_without_keys(home):
    with pytest.raises(ConfigError, match="--api-key"):
        Supervisor(home, Listen(host="0.0.0.0", port=0)).__enter__()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_invalid_taken_port_names_the_flag(home, host):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .*--port"):
            Supervisor(home, Listen(host=host, port=port)).__enter__()
    assert home.load_running() is None


def test_invalid_second_supervisor_of_one_home(home):
    home.save_running(Running(pid=os.getpid(), web_url="http://127.0.0.1:1", ports={}))
    with pytest.raises(ConfigError, match="runs already"):
        Supervisor(home, Listen(port=0)).__enter__()
    assert home.load_running() is not None


def test_a_note_of_a_lost_supervisor_does_not_stop_the_next(home, stand_in):
    stand_in(PATIENT)
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    home.save_running(Running(pid=gone.pid, web_url="", ports={}))
    with Supervisor(home, Listen(port=0)) as running:
        assert len(running.get_pids()) == 2


def test_an_open_address_with_keys_is_reached_over_loopback(home, stand_in):
    stand_in(PATIENT)
    with Supervisor(home, Listen(host="0.0.0.0", port=0, api_keys=("secret",))) as running:
        assert running.web_url.startswith("http://127.0.0.1:")
        # While the stand-in becomes another program it shows no environment for an instant.
        process = psutil.Process(running.get_pids()["node-1"])
        while not (environment := process.environ()):
            assert process.is_running()
        assert environment["PACELINE_API_KEYS"] == "secret"
        assert environment["OMP_NUM_THREADS"] == "1"
