"""OpenTelemetry, if an endpoint is configured: a span for every request, sent over OTLP/HTTP."""

from __future__ import annotations

from fastapi import FastAPI

from service.settings import Settings
from vecmeta import InvalidConfig, __version__


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
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=provider, exclude_spans=["receive", "send"])
    app.state.tracing = provider
