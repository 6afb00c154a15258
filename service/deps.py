"""What endpoints work with, made once for an application."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Self

from fastapi import Depends, Request

from service.settings import ServiceSettings
from service.telemetry import ServiceTelemetry
from workers.contract.blobs import FileBlobStore
from workers.contract.errors import ConfigurationInvalid
from workers.contract.jobs import connect
from workers.contract.queue import JobQueue

#: No answer takes longer for a Redis that hangs; one that is down says so at once.
REDIS_PATIENCE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Clients, store and telemetry of one application."""

    settings: ServiceSettings
    queue: JobQueue
    blobs: FileBlobStore
    telemetry: ServiceTelemetry
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server shuts down: requests that wait for a job end then."""

    @classmethod
    def open(cls, settings: ServiceSettings) -> Self:
        """Make them; Redis is not asked for anything yet.

        Raises:
            ConfigurationInvalid: the Redis URL or the blob folder cannot be used.
        """
        try:
            client = connect(settings.redis_url, timeout=REDIS_PATIENCE, retries=0)
        except ValueError as failure:
            raise ConfigurationInvalid(f"GDSR_REDIS_URL: {failure}") from None
        try:
            blobs = FileBlobStore(settings.blob_dir)
        except OSError as failure:
            raise ConfigurationInvalid(f"GDSR_BLOB_DIR: {failure}") from None
        queue = JobQueue(
            client,
            record_ttl=settings.record_ttl,
            max_queued=settings.max_queued_jobs,
            small_pixels=settings.small_pixels,
        )
        return cls(settings=settings, queue=queue, blobs=blobs, telemetry=ServiceTelemetry(queue))

    def close(self) -> None:
        """Let go of Redis."""
        self.queue.client.close()


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Serving = Annotated[Services, Depends(_services)]
