"""Maps errors to RFC 9457 problem documents.

The error classes do not depend on HTTP; `MEANINGS` adds a status and a title to each. A failed job
stores the slug and the message of its error and is mapped here too.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus as Status
from typing import NamedTuple

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.http.urls import address
from workers.contract import errors
from workers.contract.errors import GDSRError
from workers.contract.queue.jobs import JobFailure

MEDIA_TYPE = "application/problem+json"


class Fault(BaseModel):
    """One invalid field of a request."""

    model_config = ConfigDict(frozen=True)

    place: str
    """Location: query, form, path, header or body."""
    name: str
    message: str


class RequestInvalid(GDSRError):
    """A field is unknown, missing, given twice or outside its range, or the form is malformed."""

    slug = "invalid-request"

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.name}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


class Meaning(NamedTuple):
    """How a kind of error is presented to a client."""

    status: Status
    title: str
    retry_after: timedelta | None = None


_INTERNAL = Meaning(Status.INTERNAL_SERVER_ERROR, "Internal error")

MEANINGS: Mapping[type[GDSRError], Meaning] = {
    GDSRError: _INTERNAL,
    RequestInvalid: Meaning(Status.UNPROCESSABLE_ENTITY, "The request is not valid"),
    # The picture
    errors.ImageRejected: _INTERNAL,
    errors.ImageMissing: Meaning(Status.UNPROCESSABLE_ENTITY, "There is no picture in the request"),
    errors.UploadTooLarge: Meaning(Status.REQUEST_ENTITY_TOO_LARGE, "The upload is too large"),
    errors.DigestMismatch: Meaning(Status.BAD_REQUEST, "The digest does not match the body"),
    errors.ImageTooLarge: Meaning(
        Status.REQUEST_ENTITY_TOO_LARGE, "The picture has too many pixels"
    ),
    errors.ResultTooLarge: Meaning(Status.UNPROCESSABLE_ENTITY, "The result would be too large"),
    errors.ImageUnsupported: Meaning(Status.UNSUPPORTED_MEDIA_TYPE, "The format is not supported"),
    errors.ImageCorrupt: Meaning(Status.UNPROCESSABLE_ENTITY, "The picture is damaged"),
    errors.ImageAnimated: Meaning(Status.UNPROCESSABLE_ENTITY, "The picture is animated"),
    errors.FrameMissing: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The picture has no such frame or page"
    ),
    errors.ColourTooDeep: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The picture has too many bits per sample"
    ),
    errors.AlphaNotStorable: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format cannot hold transparency"
    ),
    errors.DepthNotStorable: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format cannot hold 16 bits"
    ),
    errors.LosslessNotStorable: Meaning(Status.UNPROCESSABLE_ENTITY, "The result format is lossy"),
    errors.ProfileNotStorable: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format cannot hold a colour profile"
    ),
    errors.FormatNotWritten: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format is not available"
    ),
    errors.ScaleTooLarge: Meaning(Status.UNPROCESSABLE_ENTITY, "The enlargement is too large"),
    errors.ModelUnknown: Meaning(Status.UNPROCESSABLE_ENTITY, "There is no such model"),
    # The client
    errors.WebhooksOff: Meaning(Status.UNPROCESSABLE_ENTITY, "Webhooks are off"),
    errors.WebhookNotAllowed: Meaning(Status.UNPROCESSABLE_ENTITY, "The webhook is not allowed"),
    errors.ListingNeedsKeys: Meaning(Status.FORBIDDEN, "Listing jobs needs API keys"),
    errors.HostNotServed: Meaning(Status.MISDIRECTED_REQUEST, "The host name is not served"),
    errors.OriginNotServed: Meaning(Status.FORBIDDEN, "The origin is not allowed"),
    errors.KeyMissing: Meaning(Status.UNAUTHORIZED, "An API key is needed"),
    errors.KeyInvalid: Meaning(Status.UNAUTHORIZED, "The API key is unknown"),
    errors.AdminOff: Meaning(Status.FORBIDDEN, "Admin endpoints are off"),
    errors.RateExceeded: Meaning(Status.TOO_MANY_REQUESTS, "Rate limit exceeded"),
    errors.PixelsExceeded: Meaning(Status.TOO_MANY_REQUESTS, "Pixel quota exceeded"),
    # The job
    errors.JobNotFound: Meaning(Status.NOT_FOUND, "There is no such job"),
    errors.JobTooNew: Meaning(
        Status.SERVICE_UNAVAILABLE,
        "The job is from a newer release",
        retry_after=timedelta(seconds=5),
    ),
    errors.JobNotFinished: Meaning(
        Status.CONFLICT, "The job has not finished", retry_after=timedelta(seconds=1)
    ),
    errors.JobCancelled: Meaning(Status.GONE, "The job was cancelled"),
    errors.JobExpired: Meaning(Status.GONE, "The result has expired"),
    errors.BlobMissing: Meaning(Status.GONE, "The stored picture is missing"),
    errors.JobFailed: _INTERNAL,
    errors.EngineLost: Meaning(Status.INTERNAL_SERVER_ERROR, "The engine was lost"),
    errors.CheckpointReplaced: Meaning(
        Status.INTERNAL_SERVER_ERROR, "The checkpoint was replaced during the job"
    ),
    errors.EngineOutOfMemory: Meaning(Status.INTERNAL_SERVER_ERROR, "The engine is out of memory"),
    errors.ModelNotLoaded: Meaning(Status.INTERNAL_SERVER_ERROR, "The model could not be loaded"),
    errors.TileNotFinite: Meaning(
        Status.INTERNAL_SERVER_ERROR, "The network's output is not finite"
    ),
    errors.WorkerLost: Meaning(Status.INTERNAL_SERVER_ERROR, "The worker was lost"),
    errors.JobCrashed: Meaning(Status.INTERNAL_SERVER_ERROR, "The job crashed"),
    errors.JobTimedOut: Meaning(Status.INTERNAL_SERVER_ERROR, "The job timed out"),
    errors.JobOutOfMemory: Meaning(Status.INTERNAL_SERVER_ERROR, "The job ran out of memory"),
    errors.BranchesNotKept: Meaning(Status.NOT_FOUND, "The job did not keep its branches"),
    # The batch
    errors.ArchiveInvalid: Meaning(Status.UNPROCESSABLE_ENTITY, "The zip cannot be read"),
    errors.BatchEmpty: Meaning(Status.UNPROCESSABLE_ENTITY, "The batch is empty"),
    errors.BatchTooLarge: Meaning(Status.REQUEST_ENTITY_TOO_LARGE, "The batch is too large"),
    errors.EntryDamaged: Meaning(Status.UNPROCESSABLE_ENTITY, "The file in the zip is damaged"),
    errors.BatchNotFound: Meaning(Status.NOT_FOUND, "There is no such batch"),
    errors.BatchNotFinished: Meaning(
        Status.CONFLICT, "The batch has not finished", retry_after=timedelta(seconds=1)
    ),
    errors.BatchExpired: Meaning(Status.GONE, "The results have expired"),
    # Repeated requests
    errors.IdempotencyKeyReused: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The idempotency key was used for another request"
    ),
    # The service
    errors.QueueFull: Meaning(Status.SERVICE_UNAVAILABLE, "The queue is full"),
    errors.QueueUnavailable: Meaning(
        Status.SERVICE_UNAVAILABLE, "The queue is unavailable", retry_after=timedelta(seconds=5)
    ),
    errors.NoWorker: Meaning(
        Status.SERVICE_UNAVAILABLE, "No worker is available", retry_after=timedelta(seconds=5)
    ),
    errors.StorageFull: Meaning(
        Status.INSUFFICIENT_STORAGE, "The picture store is full", retry_after=timedelta(seconds=60)
    ),
    errors.StorageUnavailable: Meaning(
        Status.SERVICE_UNAVAILABLE,
        "The picture store is unavailable",
        retry_after=timedelta(seconds=5),
    ),
    errors.ConfigurationInvalid: Meaning(Status.INTERNAL_SERVER_ERROR, "The settings are invalid"),
}

#: Problems raised by the framework before our code runs.
PLAIN_MEANINGS: Mapping[str, Meaning] = {
    "not-found": Meaning(Status.NOT_FOUND, "There is nothing at this address"),
    "method-not-allowed": Meaning(
        Status.METHOD_NOT_ALLOWED, "The method is not allowed at this address"
    ),
    "requested-range-not-satisfiable": Meaning(
        Status.REQUESTED_RANGE_NOT_SATISFIABLE, "The range is not satisfiable"
    ),
    "not-ready": Meaning(Status.SERVICE_UNAVAILABLE, "The service is not ready"),
}

_CLASSES = {
    error.slug: error for error, meaning in MEANINGS.items() if meaning is not _INTERNAL
} | {GDSRError.slug: GDSRError}


#: Possible failures of a job in this release.
JOB_FAILURES = (
    GDSRError,
    *(kind for kind, meaning in MEANINGS.items()
      if issubclass(kind, errors.ImageRejected | errors.JobFailed) and meaning is not _INTERNAL),
    errors.ModelUnknown, errors.BranchesNotKept, errors.BlobMissing, errors.StorageFull,
    errors.StorageUnavailable,
)  # fmt: skip
#: Possible failures of a batch in this release.
BATCH_FAILURES = (
    GDSRError, errors.ArchiveInvalid, errors.BatchEmpty, errors.BatchTooLarge, errors.QueueFull,
    errors.PixelsExceeded, errors.ModelUnknown, errors.NoWorker, errors.WorkerLost,
    errors.JobCrashed, errors.JobTimedOut, errors.JobOutOfMemory, errors.BlobMissing,
    errors.StorageFull, errors.StorageUnavailable,
)  # fmt: skip


#: Statuses that clients retry; a permanent failure must not have one of them.
_AGAIN = {
    Status.TOO_MANY_REQUESTS, Status.BAD_GATEWAY, Status.SERVICE_UNAVAILABLE,
    Status.GATEWAY_TIMEOUT,
}  # fmt: skip


class ProblemDocument(BaseModel):
    """An RFC 9457 problem: why a request failed."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(examples=["/problems/queue-full"])
    """Address of a document about this kind of problem. Stable: compare this."""
    title: str
    """The kind of problem in words; constant for each type."""
    status: int
    """The HTTP status, repeated."""
    detail: str | None = None
    """What happened in this case: numbers, limits, what to do."""
    instance: str | None = None
    """The path of the request or of the failed job."""
    request_id: str | None = None
    """For an internal error: the id to search for in the log."""
    errors: tuple[Fault, ...] | None = None
    """For an invalid request: every invalid field."""
    limits: dict[str, int] | None = None
    """For a limit that was exceeded: the limit, by its name in `GET /limits`."""
    checks: dict[str, str] | None = None
    """For a service that is not ready: each dependency, `ok` or what is wrong with it."""


def problem_type(slug: str) -> str:
    """The address that identifies a kind of problem."""
    return address(f"/problems/{slug}")


def describe(error: GDSRError, *, instance: str) -> ProblemDocument:
    """The problem document of an error."""
    meaning = MEANINGS[type(error)]
    return ProblemDocument(
        type=problem_type(error.slug),
        title=meaning.title,
        status=meaning.status,
        detail=None if meaning is _INTERNAL else str(error),
        instance=instance,
        errors=error.faults if isinstance(error, RequestInvalid) else None,
        limits=error.limits or None,
    )


def failed_status(kind: type[GDSRError]) -> Status:
    """The status of a job or batch with this failure; never one that clients retry."""
    status = MEANINGS[kind].status
    return Status.INTERNAL_SERVER_ERROR if status in _AGAIN else status


def describe_failure(failure: JobFailure, *, instance: str | None) -> ProblemDocument:
    """The problem document of a failed job. Unknown slugs of newer workers become internal
    errors.
    """
    kind = _CLASSES.get(failure.slug, GDSRError)
    return ProblemDocument(
        type=problem_type(failure.slug),
        title=MEANINGS[kind].title,
        status=failed_status(kind),
        detail=failure.detail,
        instance=instance,
    )


def answer(problem: ProblemDocument, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response with a problem document."""
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def extra_headers(error: GDSRError) -> dict[str, str]:
    """`Retry-After` for temporary errors; `WWW-Authenticate` for a missing key."""
    if MEANINGS[type(error)].status is Status.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="GDSR"'}
    pause = error.pause or MEANINGS[type(error)].retry_after
    return {} if pause is None else {"Retry-After": str(math.ceil(pause.total_seconds()))}


class ProblemType(BaseModel):
    """A kind of problem: the fields that are constant for each type."""

    model_config = ConfigDict(frozen=True)

    type: str
    title: str
    status: int
    about: str


def explain(slug: str) -> ProblemType | None:
    """The document at `/problems/<slug>`; None if there is no such kind."""
    if slug in PLAIN_MEANINGS:
        meaning, about = PLAIN_MEANINGS[slug], ""
    elif slug in _CLASSES:
        meaning, about = MEANINGS[_CLASSES[slug]], inspect.getdoc(_CLASSES[slug]) or ""
    else:
        return None
    return ProblemType(
        type=problem_type(slug),
        title=meaning.title,
        status=meaning.status,
        about=" ".join(about.split()),
    )
