"""Our OpenAPI document against our server: what it allows is answered, what it forbids is refused, and nothing is a 5xx."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from scripted_gateway import GOOD_KEY, LoopbackServer, ScriptedGateway

from paceline.node.api.desk import ApiDesk
from paceline.web.api import Api
from paceline.web.openapi import build_document
from paceline.web.settings import WebSettings

HERE = Path(__file__).parent
EXAMPLES = 3
RUN = "from schemathesis.cli import schemathesis; schemathesis()"


def run_schemathesis(server: LoopbackServer, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Every check there is, over every route, with data that fits the document and data that does not."""
    command = [sys.executable, "-c", RUN, "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{server.url}/openapi.json", "-H", f"Authorization: Bearer {GOOD_KEY}", "--no-color", "--seed", "1"]
    command += [
        "--phases",
        "coverage,fuzzing,stateful",
        "--max-examples",
        str(EXAMPLES),
        "--generation-database",
        "none",
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "api_checks", "PYTHONPATH": str(HERE)}
    return subprocess.run(  # noqa: PLW1510 - the caller looks
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def test_schemathesis_finds_nothing(tmp_path: Path):
    gateway = ScriptedGateway()
    gateway.known_keys = {GOOD_KEY}
    with LoopbackServer(gateway, WebSettings(api_keys_required=True)) as server:
        done = run_schemathesis(server, tmp_path, "--phases", "coverage,fuzzing,stateful")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) > 1_000
    assert all((gateway.chats, gateway.completions, gateway.embeds))


def test_schemathesis_finds_a_fault(tmp_path: Path):
    """The same run sees a server that breaks: its silence above means something."""
    gateway = ScriptedGateway()
    gateway.known_keys = {GOOD_KEY}
    gateway.fail_before = ValueError("a bug")
    with LoopbackServer(gateway, WebSettings(api_keys_required=True)) as server:
        done = run_schemathesis(
            server,
            tmp_path,
            "--phases",
            "fuzzing",
            "--no-shrink",
            "--max-failures",
            "1",
            "--include-path",
            "/v1/embeddings",
        )
    assert done.returncode == 1
    assert "Server error" in done.stdout


def test_the_document_has_every_route(http: httpx.Client, gateway: ScriptedGateway):
    shown = http.get("/openapi.json").json()["paths"]
    routes = Api(gateway, WebSettings(), ApiDesk())._list_routes()
    expected = {path.replace(":path", ""): {method.lower() for method in handlers} for path, handlers in routes.items()}
    assert {path: set(methods) for path, methods in shown.items()} == expected


@pytest.mark.parametrize(
    "shape", ["ChatRequest", "CompletionRequest", "EmbeddingRequest", "ResponseRequest", "BatchRequest"]
)
def test_the_document_closes_every_request(shape):
    schema = build_document(("m",))["components"]["schemas"][shape]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])
