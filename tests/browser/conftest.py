from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

# The scripted gateway is shared with the tests of the web room.
sys.path.insert(0, str(Path(__file__).parents[1] / "web"))

from scripted_gateway import LoopbackServer, ScriptedGateway

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 900}


# Playwright keeps an event loop running in this thread; past its module it would break every asyncio.run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("the browser tests need Chromium: apt-get install --yes chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway()


@pytest.fixture
def server(gateway: ScriptedGateway) -> Iterator[LoopbackServer]:
    with LoopbackServer(gateway) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: LoopbackServer) -> Iterator[Page]:
    """A fresh profile on the dashboard; an error of a script or a breach of the content policy fails the test."""
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", base_url=server.url)
    page = context.new_page()
    told: list[str] = []
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("console", lambda message: told.append(message.text) if "Content Security" in message.text else None)
    yield page
    context.close()
    assert told == []
