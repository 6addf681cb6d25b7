"""A network that others may join, with epochs of a few seconds, and the commands a newcomer and its sponsor would type."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import msgspec

from paceline.node.home import Home, NewHome, create_home
from paceline.node.membership.joining import open_doors
from paceline.node.settings import load_settings
from paceline.node.supervisor import Listen, Supervisor
from paceline.protocol.params import PRESETS, TINY

BRIEF = msgspec.structs.replace(
    TINY,
    epoch_blocks=160,
    deal_blocks=20,
    complain_blocks=4,
    reveal_blocks=10,
    race=msgspec.structs.replace(TINY.race, commit_blocks=10, race_blocks=30, claim_blocks=30),
)
LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def open_network(path, count, *, engine, monkeypatch, block_seconds=0.1, **settings):
    """Nodes that neither serve nor train; yields (home, url that others join at)."""
    # Genesis carries the numbers themselves, so the node processes need no preset of this name.
    monkeypatch.setitem(PRESETS, "brief", BRIEF)
    new = NewHome(nodes=count, seed=21, preset="brief", engine=engine, block_seconds=block_seconds)
    home = create_home(path, new)
    url = open_doors(home, LOOPBACK, take_ports(2 * count))
    for name in home.node_names():
        former = load_settings(home.node_path(name) / "node.toml")
        home.save_settings(msgspec.structs.replace(former, serves=False, trains=False, **settings))
    with Supervisor(home, Listen(port=0)):
        yield home, url


def take_ports(count):
    """The first of so many free consecutive ports."""
    for first in range(20_000 + os.getpid() % 8_000, 60_000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind((LOOPBACK, port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


def run_command(*arguments):
    """(exit code, what it printed) of a command that ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "paceline", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


@contextlib.contextmanager
def run_join(url, path, log_path, *arguments):
    """`paceline join` that stays up inside the block; yields the newcomer's home and its url."""
    port = take_ports(2)
    command = [sys.executable, "-m", "paceline", "join", url, "--home", str(path), "--peer-port", str(port)]
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            [*command, "--port", "0", "--no-serve", "--no-train", *arguments], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: child.poll() is not None or b"Ctrl-C" in log_path.read_bytes(), 120)
        assert child.poll() is None, log_path.read_text()
        yield Home(path), f"http://{LOOPBACK}:{port}"
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(15)


def wait_for(ready, seconds):
    """Return when it is so."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.2)
