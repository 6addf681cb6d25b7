from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI
from scripted_gateway import GOOD_KEY, LoopbackServer, ScriptedGateway


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway()


@pytest.fixture
def server(gateway: ScriptedGateway) -> Iterator[LoopbackServer]:
    with LoopbackServer(gateway) as running:
        yield running


@pytest.fixture
def http(server: LoopbackServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def client(server: LoopbackServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=0, timeout=20) as client:
        yield client
