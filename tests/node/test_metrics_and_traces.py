"""What a node shows of itself: counts to its own machine, and spans that hang together and quote nobody."""

from __future__ import annotations

import asyncio
import sys

import pytest
from opentelemetry.trace import SpanContext, TraceFlags, get_current_span

from paceline.base.errors import ConfigError, Invalid
from paceline.network.public import PublicRequest
from paceline.node.metrics import HELP, Metrics, MetricsPage
from paceline.node.tracing import Tracing, open_tracing, read_parent

PARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


class RecordingSpan:
    def __init__(self, name, found, parent, attributes) -> None:
        self.name, self.found, self.parent, self.attributes = name, found, parent, dict(attributes)
        self.ended = False

    def get_span_context(self):
        return self.found

    def set_attribute(self, name, value):
        self.attributes[name] = value

    def end(self):
        self.ended = True


class RecordingProvider:
    """A provider and its one tracer, as OpenTelemetry's interface has them."""

    def __init__(self) -> None:
        self.spans: list[RecordingSpan] = []
        self.stopped = False

    def get_tracer(self, _name):
        return self

    def start_span(self, name, context=None, attributes=None):
        parent = get_current_span(context).get_span_context() if context is not None else None
        number = len(self.spans) + 1
        trace_id = parent.trace_id if parent is not None and parent.is_valid else 0x1000 + number
        found = SpanContext(trace_id, number, is_remote=False, trace_flags=TraceFlags(1))
        span = RecordingSpan(name, found, parent.span_id if parent is not None else 0, attributes or {})
        self.spans.append(span)
        return span

    def shutdown(self):
        self.stopped = True


def test_spans_of_three_nodes_hang_together():
    nodes = [RecordingProvider() for _ in range(3)]
    relay, executor, checker = (Tracing(provider) for provider in nodes)
    with (
        relay.span("relay", task="t") as first,
        executor.span("executor", read_parent(first), task="t") as second,
        checker.span("checker", read_parent(second), task="t"),
    ):
        pass
    [asked], [answered], [checked] = (provider.spans for provider in nodes)
    assert asked.found.trace_id == answered.found.trace_id == checked.found.trace_id
    assert (answered.parent, checked.parent) == (asked.found.span_id, answered.found.span_id)
    assert all(span.ended for span in (asked, answered, checked))


def test_off_means_nothing_is_made():
    tracing = Tracing()
    with tracing.span("relay", PARENT, task="t") as traceparent:
        assert traceparent == ""
    tracing.stop()
    assert open_tracing("", "node-1").span


def test_a_failure_is_named_by_its_kind_and_not_by_its_words():
    provider = RecordingProvider()
    tracing = Tracing(provider)
    with pytest.raises(ValueError, match="my secret"), tracing.span("relay"):
        raise ValueError("my secret")
    [span] = provider.spans
    assert span.ended
    assert span.attributes == {"error.type": "ValueError"}
    tracing.stop()
    assert provider.stopped


@pytest.mark.parametrize(
    "text", ["", "00-ab", PARENT.upper(), PARENT + "x", PARENT.replace("0", "g", 1), "\n" + PARENT]
)
def test_invalid_parent_from_a_peer_is_dropped(text):
    assert read_parent(text) == ""
    assert read_parent(PARENT) == PARENT


def test_invalid_endpoint_without_the_libraries(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"paceline\[trace\]"):
        open_tracing("http://127.0.0.1:4318/v1/traces", "node-1")


def test_the_page_shows_counters_histograms_and_gauges():
    metrics = Metrics()
    metrics.count("relay_requests_total", "answered")
    metrics.count("relay_requests_total", "answered")
    metrics.count("relay_requests_total", "refused")
    metrics.count("payloads_handed_out_total")
    for seconds in (0.005, 0.01, 0.02, 1_000.0):
        metrics.observe("relay_first_token_seconds", seconds)
    metrics.gauge("height", lambda: 7)
    lines = metrics.render().splitlines()
    assert 'paceline_relay_requests_total{outcome="answered"} 2' in lines
    assert 'paceline_relay_requests_total{outcome="refused"} 1' in lines
    assert "paceline_payloads_handed_out_total 1" in lines
    assert 'paceline_relay_first_token_seconds_bucket{le="0.01"} 2' in lines
    assert 'paceline_relay_first_token_seconds_bucket{le="0.03"} 3' in lines
    assert 'paceline_relay_first_token_seconds_bucket{le="+Inf"} 4' in lines
    assert "paceline_relay_first_token_seconds_count 4" in lines
    assert "paceline_height 7" in lines
    assert lines.count("# TYPE paceline_relay_requests_total counter") == 1
    assert metrics.render().endswith("\n")


def test_every_series_has_a_line_that_explains_it():
    metrics = Metrics()
    for name in HELP:
        metrics.gauge(name, lambda: 0)
    assert metrics.render().count("# HELP") == len(HELP)
    with pytest.raises(AssertionError):
        metrics.count("prompts_seen_total")


def test_only_named_hosts_see_the_page():
    page = MetricsPage(Metrics(), ("127.0.0.1",))

    def ask(host: str) -> bytes:
        return asyncio.run(page.answer(PublicRequest(host=host, name="", query="", body=b"")))

    assert ask("127.0.0.1") == b""
    for host in ("203.0.113.7", ""):
        with pytest.raises(Invalid, match="not-for-you"):
            ask(host)
