"""docs/API.md: its Python runs as it stands, and it speaks of every route and option that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripted_gateway import GOOD_KEY, LoopbackServer, ScriptedGateway

from paceline.web.openapi import build_document
from paceline.web.requests import CHAT_SHAPE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "API.md").read_text()


def test_the_python_of_the_page_runs(capsys):
    gateway = ScriptedGateway()
    gateway.model_ids = ["smollm2-135m-instruct"]
    gateway.known_keys = {GOOD_KEY}
    with LoopbackServer(gateway) as server:
        names: dict[str, object] = {}
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            text = block.replace("http://127.0.0.1:8000", server.url).replace('"demo"', f'"{GOOD_KEY}"')
            exec(compile(text, "docs/API.md", "exec"), names)
        names["client"].close()
    assert capsys.readouterr().out == "Hello, world"
    assert names["batch"].status == "validating"
    assert gateway.chats[0][1].max_tokens == 40


@pytest.mark.parametrize("path", [path for path in build_document(("m",))["paths"] if path != "/health"])
def test_every_route_is_on_the_page(path):
    base = path.partition("/{")[0]
    assert base in PAGE


@pytest.mark.parametrize("option", sorted(set(CHAT_SHAPE.to_schema()["ChatRequest"]["properties"])))
def test_every_chat_option_is_on_the_page(option):
    # Rarely asked for; the refusal names them all the same.
    quiet = {"prediction", "modalities", "service_tier", "verbosity", "web_search_options", "reasoning_effort"}
    assert option in quiet or re.search(rf"\b{option}\b", PAGE)
