"""The simulator's page in a real browser: every chart is drawn, nothing is fetched, and a telephone need not scroll sideways."""

from __future__ import annotations

import tomllib
from pathlib import Path

from playwright.sync_api import Browser

from paceline.lab.economy import simulate
from paceline.lab.economy_page import write_page
from paceline.lab.economy_report import summarise
from paceline.lab.scenario import parse_scenario

EXAMPLE = Path("examples/econ/first-years.toml")


def test_the_page_fits_a_narrow_window(browser: Browser, tmp_path: Path) -> None:
    data = tomllib.loads(EXAMPLE.read_text("utf-8")) | {"hosts": 100, "epochs": 40}
    economy = simulate(parse_scenario(data, "test"))
    path = tmp_path / "page.html"
    path.write_text(write_page(economy, summarise(economy)), "utf-8")
    page = browser.new_page(viewport={"width": 400, "height": 800})
    told: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelectorAll('.main-svg').length >= 8 * 2")
    assert page.locator(".js-plotly-plot").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert told == [] and asked == [path.as_uri()]
    page.close()
