"""`paceline up` as a process of its own, with a view on the node processes that it started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx
import psutil

from paceline.node.home import Home

PACELINE = (sys.executable, "-m", "paceline")
START_SECONDS = 180.0
END_SECONDS = 5.0
POLL_SECONDS = 0.05


class UpProcess:
    """Use as a context manager; leaving it ends what still runs."""

    def __init__(self, home: Home, *options: str) -> None:
        self.home = home
        self.children: list[psutil.Process] = []
        command = [*PACELINE, "up", "--home", str(home.path), "--port", "0", *options]
        self._log = (home.path.parent / "up.log").open("ab")
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.note_children()
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait(END_SECONDS)
            for child in self.children:
                if child.is_running():
                    child.kill()
        finally:
            self._log.close()

    @property
    def url(self) -> str:
        running = self.home.load_running()
        return running.web_url if running is not None else ""

    def wait_ready(self) -> None:
        """Return when the web endpoint answers."""
        wait_until(self._is_ready, START_SECONDS, "`paceline up` answers")
        self.note_children()

    def note_children(self) -> None:
        """Remember every process under the supervisor, also those that it started anew."""
        if self.process.poll() is None:
            found = psutil.Process(self.process.pid).children(recursive=True)
            self.children += [child for child in found if child not in self.children]

    def find_node(self, name: str) -> psutil.Process | None:
        """The running process of a node."""
        self.note_children()
        for child in self.children:
            try:
                if child.status() != psutil.STATUS_ZOMBIE and name in child.cmdline():
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def kill_node(self, name: str) -> None:
        """`kill -9` a node; returns when the supervisor has started it anew."""
        victim = self.find_node(name)
        assert victim is not None
        victim.send_signal(signal.SIGKILL)
        wait_until(lambda: self.find_node(name) not in {None, victim}, END_SECONDS, f"{name} is started again")

    def living(self) -> list[psutil.Process]:
        """Node processes that have not ended."""
        return [child for child in self.children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, Path(self._log.name).read_text()
        try:
            return bool(self.url) and httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False).is_success
        except httpx.TransportError:
            return False


def wait_until(is_so, timeout_seconds: float, what: str) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < timeout_seconds, f"not within {timeout_seconds} s: {what}"
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began
