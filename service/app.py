"""The HTTP application: ``create_app(settings)``.

It stores models and answers questions about jobs; it never opens a model, and imports nothing that could. Whoever runs
it says where its log goes (``service.logs``).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from service import documentation, problems
from service.context import Context
from service.heads import Heads
from service.intake import FORM_OVERHEAD
from service.metrics import Metrics
from service.observation import QUIET, Observation
from service.readiness import Prober
from service.routes import conversions, convert, inspections, operations, page, results, webhooks
from service.settings import Settings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from starlette.types import Scope

__all__ = ["create_app"]

SMALL_BODY = 64 << 10
DESCRIPTION = """FP32 ONNX models become INT8 without any data, with an honest report of what that cost.

Submit a model, watch the conversion, fetch the INT8 model and the report. Errors are `application/problem+json`
(RFC 9457) and name the node, operator, tensor or field at fault, and the remedy."""


def create_app(settings: Settings, opened: Context | None = None) -> FastAPI:
    """The service over the configured database and store, opened when it starts unless given, closed when it ends."""
    metrics = opened.metrics if opened else Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = opened if opened is not None else await run_in_threadpool(Context.open, settings, metrics)
        metrics.watch(context.jobs)
        app.state.context = context
        app.state.prober = Prober(context)
        app.state.draining = False
        try:
            yield
        finally:
            await run_in_threadpool(context.close)

    app = FastAPI(
        title="zsq",
        summary="FP32 ONNX to INT8 without data",
        description=DESCRIPTION,
        version=version("zsq"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=documentation.TAGS,
        docs_url=None,  # the framework's pages fetch scripts from elsewhere; ours is in routes.page
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry=_telemetry(),
    )
    app.add_middleware(Heads)
    app.add_middleware(Observation, metrics=metrics)
    problems.install(app)
    for router in (conversions.upload_router, inspections.upload_router, convert.router):
        app.include_router(router, max_body_size=settings.max_upload_bytes + FORM_OVERHEAD)
    for router in (
        conversions.router,
        inspections.router,
        results.router,
        convert.bundle_router,
        webhooks.router,
        operations.router,
        page.router,
    ):
        app.include_router(router, max_body_size=SMALL_BODY)
    documentation.complete(app, settings.requires_keys)
    return app


def _telemetry() -> TelemetryConfig:
    """FastAPI's own spans and metrics, exported where the usual variables say; off without them."""
    named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    configured = any(os.environ.get(name) for name in named)

    def exclude(scope: Scope) -> bool:
        return scope.get("path") in QUIET

    return {
        "tracing": configured,
        "metrics": configured,
        "logs": configured,
        "auto_configure": configured,
        "exclude": exclude,
    }
