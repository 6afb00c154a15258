"""The application: endpoints, error handling and telemetry put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from service import faults, front
from service.deps import Services
from service.description import describe_app
from service.envelope import Envelope
from service.guard import Guard
from service.routes import admin, batches, events, jobs, limits, models, ops, upscale
from service.routes.docs import docs_router
from service.routes.page import page_router
from service.settings import ServiceSettings

_NO_TRACING = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)


def create_app(settings: ServiceSettings) -> FastAPI:
    """An application with its own clients and metrics; Redis need not be there yet.

    Raises:
        ConfigurationInvalid: it cannot work with these settings.
    """
    services = Services.open(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        services.watches.open()
        services.deliverer.start()
        yield
        services.deliverer.stop()
        await services.watches.close()
        services.close()

    app = FastAPI(
        title="GDSR",
        version="1",
        summary="Makes a photograph four times larger.",
        openapi_url=None,  # this and the page are among our own routes
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        telemetry=_NO_TRACING,
    )
    app.state.services = services
    if services.keys.private:
        app.add_middleware(Guard, hosts=settings.hosts, origins=settings.cors_origins)
    app.add_middleware(Envelope, telemetry=services.telemetry, spans=services.spans)
    front.install(app, root_path=settings.root_path, origins=settings.cors_origins)
    faults.install(app)
    for ours in (upscale, jobs, batches, events, models, limits, ops, admin):
        app.include_router(ours.router)
    if settings.metrics_port is None:
        app.include_router(ops.metrics_router)
    app.include_router(docs_router())
    app.include_router(page_router())
    describe_app(app, root_path=settings.root_path)
    return app
