"""The page, its files and its event stream over a real server."""

from __future__ import annotations

import gzip
import re

import httpx
import pytest
from scripted_gateway import LoopbackServer, ScriptedGateway, build_node, build_status, read_events

from paceline.node.views import BlockView
from paceline.web.panels import ALL_PANELS
from paceline.web.settings import WebSettings


def find_assets(page: str) -> list[str]:
    return sorted(set(re.findall(r'"(/static/[^"]+)"', page)))


def test_the_page_is_complete_without_scripts(http: httpx.Client, gateway: ScriptedGateway):
    gateway.node_status = build_status(build_node("atlas", 3), build_node("brio", 1), height=12)
    page = http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "75.0" in page.text
    assert "one sequencer, not Byzantine fault tolerant" in page.text
    assert 'id="chat-key"' not in page.text
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)


def test_the_page_asks_for_a_key_where_one_is_needed(gateway: ScriptedGateway):
    with LoopbackServer(gateway, WebSettings(api_keys_required=True)) as server:
        assert 'id="chat-key"' in httpx.get(server.url, trust_env=False).text


def test_files_are_immutable_and_packed(http: httpx.Client):
    paths = find_assets(http.get("/").text)
    assert {path.rsplit("/", 1)[1] for path in paths} == {
        "chat.js",
        "dashboard.css",
        "dashboard.js",
        "live.js",
        "mark.svg",
        "plotly.min.js",
    }
    for path in paths:
        plain = http.get(path, headers={"accept-encoding": "identity"})
        assert "immutable" in plain.headers["cache-control"]
        with http.stream("GET", path, headers={"accept-encoding": "gzip"}) as packed:
            raw = b"".join(packed.iter_raw())
        assert gzip.decompress(raw) == plain.content
        assert len(raw) < len(plain.content)


@pytest.mark.parametrize("path", ["/static/0000000000000000/chat.js", "/static/../app.py", "/static/x/..%2fapp.py"])
def test_invalid_file(http: httpx.Client, path):
    assert http.get(path).status_code == 404


def test_events_send_all_panels_then_only_what_changed(http: httpx.Client, gateway: ScriptedGateway):
    with http.stream("GET", "/events") as reply:
        events = read_events(reply.iter_lines())
        assert [next(events)[0] for _ in ALL_PANELS] == list(ALL_PANELS)
        gateway.block_list = [BlockView(height=77, app_hash="cc" * 32, transactions=4, unix_milliseconds=1)]
        assert gateway.watching.acquire(timeout=5)
        gateway.announce("block")
        name, html = next(events)
        assert name == "blocks"
        assert "77" in html
        gateway.announce(None)
        assert list(events) == []


def test_a_burst_of_changes_is_rendered_a_few_times(gateway: ScriptedGateway):
    with LoopbackServer(gateway, WebSettings(refresh_seconds=0.2)) as server:
        url = f"{server.url}/events"
        with httpx.Client(trust_env=False, timeout=20) as http, http.stream("GET", url) as reply:
            events = read_events(reply.iter_lines())
            for _ in ALL_PANELS:
                next(events)
            assert gateway.watching.acquire(timeout=5)
            before = gateway.calls["tasks"]
            for _ in range(500):
                gateway.announce("task")
            gateway.task_list = []
            gateway.node_status = build_status(build_node("atlas", 1))
            gateway.announce("block")
            assert next(events)[0] in {"network", "nodes"}
            assert gateway.calls["tasks"] - before <= 3


def test_a_viewer_that_leaves_leaves_nothing_running(http: httpx.Client, gateway: ScriptedGateway):
    with http.stream("GET", "/events") as reply:
        reply_lines = reply.iter_lines()
        next(reply_lines)
    assert gateway.left.acquire(timeout=5)


def test_boundary_of_viewers(gateway: ScriptedGateway):
    with LoopbackServer(gateway, WebSettings(max_viewers=1)) as server, httpx.Client(trust_env=False) as http:
        with http.stream("GET", f"{server.url}/events") as first:
            first_lines = first.iter_lines()
            next(first_lines)
            refused = http.get(f"{server.url}/events")
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy")
        assert gateway.left.acquire(timeout=5)
        with http.stream("GET", f"{server.url}/events") as again:
            assert again.status_code == 200


def test_invalid_view_ends_the_stream_and_not_the_server(http: httpx.Client, gateway: ScriptedGateway):
    gateway.node_status = None
    with http.stream("GET", "/events") as reply:
        assert "internal_error" in reply.read().decode()
    gateway.node_status = build_status()
    assert http.get("/health").status_code == 200
