"""`paceline report`: the price first, then the order."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from paceline.base.errors import ConfigError
from paceline.cli import report
from paceline.cli.report import ReportOptions, run_report
from paceline.node.control import ReportOrder
from paceline.protocol.params import TINY

TASK = "ab" * 32


class FakeClient:
    """Keeps what is posted."""

    posted: list[object] = []  # noqa: RUF012 - one client per call, one record per test

    def __init__(self, *_: str) -> None:
        pass

    def post(self, path, body, kind):
        self.posted.append((path, body))
        return kind(height=7)

    def close(self) -> None:
        pass


@pytest.fixture
def posted(monkeypatch):
    home = SimpleNamespace(load_genesis=lambda: SimpleNamespace(params=TINY), load_token=lambda: "token")
    monkeypatch.setattr(FakeClient, "posted", [])
    monkeypatch.setattr(report, "Home", lambda _: home)
    monkeypatch.setattr(report, "require_running", lambda _: SimpleNamespace(web_url="http://x"))
    monkeypatch.setattr(report, "ControlClient", FakeClient)
    return FakeClient


def run(tmp_path, *, task=TASK, yes=True):
    console = Console(record=True, width=120)
    run_report(ReportOptions(task=task, home=tmp_path, yes=yes), console)
    return console.export_text()


def test_a_report_names_its_price_and_the_height(posted, tmp_path):
    text = run(tmp_path)
    assert "0.5 coins for 2 fresh checkers" in text
    assert "since height 7" in text
    assert posted.posted == [("/report-answer", ReportOrder(task=TASK))]


def test_without_a_yes_nothing_is_paid(posted, tmp_path, monkeypatch):
    monkeypatch.setattr(report.typer, "confirm", lambda _: False)
    assert "Nothing was paid." in run(tmp_path, yes=False)
    assert posted.posted == []


@pytest.mark.parametrize("task", ["", "ab" * 31, "ab" * 33, "xy" * 32, "AB" * 32])
def test_invalid_tasks(posted, tmp_path, task):
    with pytest.raises(ConfigError, match="64 hex digits"):
        run(tmp_path, task=task)
    assert posted.posted == []
