"""Runs the nodes of a home until Ctrl-C: the end of `paceline up` and of `paceline join`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console

from paceline.node.home import Home
from paceline.node.supervisor import Listen, Supervisor


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where people reach it, and what else to tell them once it runs."""

    listen: Listen
    lines: tuple[str, ...] = ()


def run_home(home: Home, options: RunOptions, console: Console) -> None:
    """Start every node of the home and stay until Ctrl-C.

    Errors: ConfigError for settings that cannot work, UpgradeNeeded when every node had to stop for one; TransportError
    when a node does not come up.
    """
    supervisor = Supervisor(home, options.listen)
    with ExitStack() as stack:
        with console.status("Starting (the very first start converts the model once)"):
            stack.enter_context(supervisor)
        stack.callback(console.print, "Stopped.")
        keys = "your keys" if options.listen.api_keys else "any key"
        console.print(f"Dashboard   {supervisor.web_url}/")
        console.print(f"OpenAI API  {supervisor.web_url}/v1   ({keys})")
        console.print(f"Logs        {home.path}/nodes/*/node.log")
        for line in options.lines:
            console.print(line, soft_wrap=True)
        console.print("Ctrl-C ends everything.")
        supervisor.watch(lambda: False, lambda name, what: console.print(f"{name} {what}", soft_wrap=True))
