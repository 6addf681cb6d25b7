from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import DefaultHttpxClient, OpenAI
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
    # Reading the system's certificates takes longer than most tests here, and nothing is encrypted on loopback.
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
def client(server: LoopbackServer) -> Iterator[OpenAI]:
    plain = DefaultHttpxClient(verify=False)
    with OpenAI(base_url=f"{server.url}/v1", api_key=GOOD_KEY, max_retries=0, timeout=20, http_client=plain) as client:
        yield client
