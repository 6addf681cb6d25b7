"""Spans of a request over relay, executor and checker, through OpenTelemetry's interface; off unless the operator names a collector.

Where it is off nothing is imported, made or sent. It refuses to know who collects. Invariant: a span names roles, counts and
task ids and never a word of prompt or answer; what a peer sends as the parent is either well formed or dropped.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paceline.base.errors import ConfigError

HEADER = "traceparent"
_WELL_FORMED = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Tracing:
    """Opens spans. Without a provider it costs one comparison."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer: Any = None
        self._propagator: Any = None
        if provider is not None:
            self._tracer = provider.get_tracer("paceline")
            propagation = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
            self._propagator = propagation.TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, parent: str = "", **attributes: str | int) -> Iterator[str]:
        """A span around the block; gives the traceparent for whoever goes on elsewhere, empty where tracing is off."""
        if self._tracer is None:
            yield ""
            return
        context = self._propagator.extract({HEADER: parent}) if parent else None
        span = self._tracer.start_span(name, context=context, attributes=attributes)
        try:
            yield _format(span.get_span_context())
        except BaseException as problem:
            # A kind, not its words: they may quote what a user wrote.
            span.set_attribute("error.type", type(problem).__name__)
            raise
        finally:
            span.end()

    def stop(self) -> None:
        """Send what waits."""
        if self._provider is not None:
            self._provider.shutdown()


def open_tracing(endpoint: str, node: str) -> Tracing:
    """Tracing towards an OTLP collector, or none for an empty endpoint.

    Errors: ConfigError when the libraries of the extra `trace` are not installed.
    """
    if not endpoint:
        return Tracing()
    try:
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        resources = importlib.import_module("opentelemetry.sdk.resources")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as problem:
        raise ConfigError(
            f"trace_endpoint needs {problem.name}: pip install 'paceline[trace]', or leave it empty"
        ) from None
    resource = resources.Resource.create({"service.name": "paceline", "service.instance.id": node})
    provider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter(endpoint=endpoint)))
    return Tracing(provider)


def read_parent(text: str) -> str:
    """A traceparent from a peer, or nothing when it is none."""
    return text if _WELL_FORMED.fullmatch(text) else ""


def _format(found: Any) -> str:
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"
