"""OpenTelemetry, if an endpoint is configured: a span for every request, sent over OTLP/HTTP."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.settings import Settings
from vecmeta import InvalidConfig, __version__

_ADDRESSES = ("http.target", "http.url", "url.full", "url.path", "url.query")


def install(app: FastAPI, settings: Settings) -> None:
    """Trace requests when OTEL_EXPORTER_OTLP_ENDPOINT is set; the other OTEL_… variables mean what they always mean.

    Raises:
        InvalidConfig: an endpoint is set and the packages are missing.
    """
    if not settings.otel_endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidConfig(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {error.name} is missing: pip install 'vecmeta[otel]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "vecmeta", "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{settings.otel_endpoint.rstrip('/')}/v1/traces")))
    app.add_middleware(_Named)
    app.add_middleware(
        OpenTelemetryMiddleware, tracer_provider=provider, exclude_spans=["receive", "send"], server_request_hook=_without_address
    )
    app.state.tracing = provider


def _without_address(span: Any, scope: dict[str, Any]) -> None:
    """Addresses hold ids and filters, which may be what users store: the span gets the route's template instead, see `_Named`."""
    span.update_name(scope["method"])
    for name in _ADDRESSES:
        if name in (span.attributes or {}):
            span.set_attribute(name, "")


class _Named:
    """Tells the span of a request which route answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        from opentelemetry.trace import get_current_span

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":  # with the end of the answer the span ends
                route = getattr(scope.get("route"), "path", "unknown")
                span = get_current_span()
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
            await send(message)

        await self._app(scope, receive, told)
