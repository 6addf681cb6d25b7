"""The report of a comparison in a real browser: charts are drawn, the legend works, and nothing is fetched."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Browser

# Groups that no run made are shared with the tests of the lab.
sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from comparison_groups import make_example_group

from paceline.lab.training.report import write_page


def test_the_report_draws_its_charts_without_a_network(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(write_page([make_example_group()]), "utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    told: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector(".js-plotly-plot .scatterlayer .trace")
    charts = page.locator(".js-plotly-plot")
    assert charts.count() == 3
    assert page.locator("table").first.locator("tr").count() == 5
    lines = charts.first.locator(".scatterlayer .trace")
    assert lines.count() == 4
    charts.first.locator(".legendtoggle").first.click()
    page.wait_for_function("document.querySelector('.js-plotly-plot').data[0].visible === 'legendonly'")
    page.get_by_text("What was tuned").click()
    assert page.get_by_text("rate 0.002: diverged").is_visible()
    assert told == []
    assert asked == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()
