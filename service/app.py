"""The application factory: endpoints, middleware, exception handlers and telemetry."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware.cors import CORSMiddleware

from service.access.guard import LoopbackGuard
from service.batches import routes as batches
from service.compat import automatic1111, localai
from service.http import exception_handlers
from service.http.middleware import RequestMiddleware
from service.http.openapi import describe_app
from service.http.proxy import CORS, ProxyPrefix
from service.http.unread import UnreadBodies
from service.jobs import routes as jobs
from service.jobs import stream, upscale
from service.ops import admin, health, limits
from service.services import Services
from service.settings import ServiceSettings
from service.web.routes import page_router

_NO_TRACING = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)


def create_app(settings: ServiceSettings) -> FastAPI:
    """Create an application with its own clients and metrics. Redis need not be running yet.

    Raises:
        ConfigurationInvalid: the settings cannot be used.
    """
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        async with services.subscriptions.running():
            services.webhooks.start()
            yield
            services.webhooks.stop()
        services.close()

    app = FastAPI(
        title="GDSR",
        version="1",
        summary="Enlarges photographs four times.",
        openapi_url=None,  # replaced by our own routes
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        telemetry=_NO_TRACING,
    )
    app.state.services = services
    if services.private:
        app.add_middleware(LoopbackGuard, hosts=settings.hosts, origins=settings.cors_origins)
    app.add_middleware(RequestMiddleware, telemetry=services.telemetry, spans=services.spans)
    app.add_middleware(UnreadBodies)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    app.add_middleware(ProxyPrefix, root_path=settings.root_path)
    exception_handlers.install(app)
    for ours in (upscale, jobs, batches, stream, limits, health, admin):
        app.include_router(ours.router)
    if settings.metrics_port is None:
        app.include_router(health.metrics_router)
    if settings.compat:
        app.include_router(automatic1111.router)
        app.include_router(localai.router)
    app.include_router(page_router())
    describe_app(app, root_path=settings.root_path)
    return app
