"""`paceline report` has an answer of this home's account checked by fresh nodes, and shows first what that costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from paceline.base.errors import ConfigError
from paceline.cli.network import ControlClient
from paceline.cli.sponsor import require_running
from paceline.node.control import ReportOrder, Sent
from paceline.node.home import Home
from paceline.protocol.params import NICOIN_PER_COIN

TASK_PATTERN = "[0-9a-f]{64}"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the command line asked for."""

    task: str
    home: Path
    yes: bool


def run_report(options: ReportOptions, console: Console) -> None:
    """Show the price, ask, pay.

    Errors: ConfigError when the task is no id, when nothing runs here or when the ledger refuses.
    """
    if not re.fullmatch(TASK_PATTERN, options.task):
        raise ConfigError("a task is 64 hex digits, as the answer's header x-paceline-task says")
    home = Home(options.home)
    params = home.load_genesis().params.tasks
    running = require_running(home)
    console.print(
        f"Price     {params.report_fee / NICOIN_PER_COIN:g} coins for {params.report_checkers} fresh checkers"
    )
    console.print("If the answer is proven wrong, they come back with its cost and a share of what the cheater loses.")
    if not options.yes and not typer.confirm("Pay it?"):
        console.print("Nothing was paid.")
        return
    client = ControlClient(running.web_url, home.load_token())
    try:
        found = client.post("/report-answer", ReportOrder(task=options.task), Sent)
    finally:
        client.close()
    console.print(f"The answer is checked again since height {found.height}; the task's page shows the verdicts.")
