"""The dependencies of endpoints, created once for an application."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.access.auth import ANONYMOUS, key_name, load_api_keys, load_keys
from service.access.gate import QueueGate
from service.access.guard import is_loopback
from service.access.rate_limits import RateLimit
from service.observability.metrics import ServiceTelemetry
from service.settings import ServiceSettings
from service.watcher import JobSubscriptions
from service.webhooks.dispatcher import Webhooks
from workers.contract import errors
from workers.contract.blobs.open import open_blobs
from workers.contract.observability.tracing import open_spans
from workers.contract.queue.batch_queue import BatchQueue
from workers.contract.queue.batches import Batch
from workers.contract.queue.connection import connect, translated_redis_errors
from workers.contract.queue.engines import EngineInfo, running
from workers.contract.queue.jobs import Job
from workers.contract.queue.queue import JobQueue

_REDIS_TIMEOUT = timedelta(seconds=2)
_BLOB_TIMEOUT = timedelta(seconds=10)
_TRANSFER_THREADS = 16


class Services:
    """Clients, stores and telemetry of one application.

    Whatever uses the queue may raise QueueUnavailable, and whatever uses the blobs
    StorageUnavailable or StorageFull: the exception handlers answer them.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        """Create all clients. Does not connect to Redis.

        Raises:
            ConfigurationInvalid: the Redis URL or the blob store setting cannot be used.
        """
        try:
            client = connect(settings.redis_url, timeout=_REDIS_TIMEOUT, retries=0)
        except ValueError as failure:
            raise errors.ConfigurationInvalid(f"GDSR_REDIS_URL: {failure}") from None
        self.settings = settings
        self.blobs = open_blobs(settings, patience=_BLOB_TIMEOUT)
        lifetime = settings.signed_results
        if lifetime is not None and not self.blobs.signed_url(
            "results/any", lifetime=lifetime, media_type="", disposition=""
        ):
            raise errors.ConfigurationInvalid("GDSR_SIGNED_RESULTS: signed URLs need an S3 bucket")
        self.queue = JobQueue.of(client, settings, pixels_per_day=settings.pixels_per_day)
        self.gate = QueueGate(self.queue)
        self.batches = BatchQueue(self.queue)
        self.subscriptions = JobSubscriptions(self.queue)
        self.telemetry = ServiceTelemetry(self.queue, self.blobs)
        self.webhooks = Webhooks(settings, self.queue.records, outcomes=self.telemetry.webhooks)
        self.keys = load_api_keys(settings)
        self.admins = load_keys(settings.admin_keys_file, setting="GDSR_ADMIN_KEYS_FILE")
        self.spans = open_spans(settings.otel_endpoint, process="gdsr-service")
        """Exporter of spans, if configured."""
        self.transfers = CapacityLimiter(_TRANSFER_THREADS)
        """Threads for the chunks of uploads and downloads, behind which others would wait."""
        self.rate = RateLimit(settings.rate_limit, client)
        self.stopping = asyncio.Event()
        """Set when the server shuts down, to end requests that wait for a job."""

    @property
    def private(self) -> bool:
        """True if only local requests are served, because there are no API keys."""
        return not self.keys and is_loopback(self.settings.host)

    @contextmanager
    def counting_rejections(self) -> Iterator[None]:
        """Count an upload that ends in an error; one that did not fit closes the gate."""
        try:
            yield
        except errors.GDSRError as error:
            self.telemetry.rejected.labels(error.slug).inc()
            if isinstance(error, errors.QueueFull):
                self.gate.recheck()
            raise

    def engines(self) -> list[EngineInfo]:
        """The running engines."""
        with translated_redis_errors():
            return running(self.queue.client)

    def stop_waiting(self) -> None:
        """End requests that wait for a job or follow it."""
        self.stopping.set()
        self.subscriptions.wake_all()

    def close(self) -> None:
        """Close Redis connections and export the last spans."""
        self.queue.client.close()
        if self.spans is not None:
            self.spans.shutdown()


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]

_BEARER = HTTPBearer(auto_error=False, description="An API key, if the service uses them")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key")


async def _sent_key(
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    header: Annotated[str | None, Security(_HEADER)],
) -> str | None:
    return bearer.credentials if bearer else header


SentKey = Annotated[str | None, Depends(_sent_key)]


async def _owner(services: ServicesDep, key: SentKey) -> str:
    return key_name(key, services.keys) if services.keys else ANONYMOUS


async def _metrics_reader(services: ServicesDep, key: SentKey) -> None:
    if services.admins:
        key_name(key, services.admins)


async def _admin(services: ServicesDep, key: SentKey) -> str:
    if not services.admins:
        raise errors.AdminOff
    return key_name(key, services.admins)


#: Authenticates an admin; gives the name of the admin key.
Admin = Annotated[str, Depends(_admin)]
#: Authorises reading metrics: everyone, or admin keys only if any are configured.
MetricsReader = Depends(_metrics_reader)
#: Authenticates a client; gives the name of the API key.
Owner = Annotated[str, Depends(_owner)]


def own_job(services: ServicesDep, job_id: str, owner: Owner) -> Job:
    """A job of this owner; raises JobNotFound for those of others too."""
    job = services.queue.get(job_id)
    if job.spec.owner != owner:
        raise errors.JobNotFound(job_id)
    return job


def own_batch(services: ServicesDep, batch_id: str, owner: Owner) -> Batch:
    """A batch of this owner; raises BatchNotFound for those of others too."""
    batch = services.batches.get(batch_id)
    if batch.spec.owner != owner:
        raise errors.BatchNotFound(batch_id)
    services.rate.give_back_batch(batch)
    return batch


#: The job or batch that the address names, if it is the client's own.
OwnJob = Annotated[Job, Depends(own_job)]
OwnBatch = Annotated[Batch, Depends(own_batch)]
