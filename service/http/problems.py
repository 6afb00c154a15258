"""What an error means over HTTP: RFC 9457 problem documents, all from one table.

The error classes know nothing of HTTP; `MEANINGS` adds a status and a title to each. A failed job
stores only the slug and the words of its error, and gets the same document here.
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
    """One thing that is wrong with a request."""

    model_config = ConfigDict(frozen=True)

    place: str
    """Where: query, form, path, header or body."""
    name: str
    message: str


class RequestInvalid(GDSRError):
    """A field is unknown, missing, given twice or outside its range, or the form is malformed."""

    slug = "invalid-request"

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.name}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


class Meaning(NamedTuple):
    """What a client is told of a kind of error."""

    status: Status
    title: str
    retry_after: timedelta | None = None


_INTERNAL = Meaning(Status.INTERNAL_SERVER_ERROR, "Something went wrong inside the service")

MEANINGS: Mapping[type[GDSRError], Meaning] = {
    GDSRError: _INTERNAL,
    RequestInvalid: Meaning(Status.UNPROCESSABLE_ENTITY, "The request is not valid"),
    # The picture
    errors.ImageRejected: _INTERNAL,
    errors.ImageMissing: Meaning(Status.UNPROCESSABLE_ENTITY, "There is no picture in the request"),
    errors.UploadTooLarge: Meaning(Status.REQUEST_ENTITY_TOO_LARGE, "The upload is too large"),
    errors.DigestMismatch: Meaning(Status.BAD_REQUEST, "The body is not what its digest says"),
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
    errors.ColourTooDeep: Meaning(Status.UNPROCESSABLE_ENTITY, "The picture's colour is too deep"),
    errors.AlphaNotStorable: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format cannot hold transparency"
    ),
    errors.DepthNotStorable: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format cannot hold so many bits"
    ),
    errors.LosslessNotStorable: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format always loses something"
    ),
    errors.ProfileNotStorable: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format cannot hold a colour profile"
    ),
    errors.FormatNotWritten: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result format is not written here"
    ),
    errors.ScaleTooLarge: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The result would be enlarged too much"
    ),
    errors.ModelUnknown: Meaning(Status.UNPROCESSABLE_ENTITY, "There is no such model"),
    # The client
    errors.WebhooksOff: Meaning(Status.UNPROCESSABLE_ENTITY, "There are no webhooks here"),
    errors.WebhookNotAllowed: Meaning(Status.UNPROCESSABLE_ENTITY, "The webhook is not allowed"),
    errors.ListingNeedsKeys: Meaning(Status.FORBIDDEN, "Jobs are not listed here"),
    errors.HostNotServed: Meaning(Status.MISDIRECTED_REQUEST, "The service has another name"),
    errors.OriginNotServed: Meaning(Status.FORBIDDEN, "The page is of another origin"),
    errors.KeyMissing: Meaning(Status.UNAUTHORIZED, "An API key is needed"),
    errors.KeyInvalid: Meaning(Status.UNAUTHORIZED, "The API key is not known"),
    errors.AdminOff: Meaning(Status.FORBIDDEN, "There are no admin keys"),
    errors.RateExceeded: Meaning(Status.TOO_MANY_REQUESTS, "Too many pictures in a short time"),
    errors.PixelsExceeded: Meaning(Status.TOO_MANY_REQUESTS, "Too many pixels in a day"),
    # The job
    errors.JobNotFound: Meaning(Status.NOT_FOUND, "There is no such job"),
    errors.JobTooNew: Meaning(
        Status.SERVICE_UNAVAILABLE, "The job is newer", retry_after=timedelta(seconds=5)
    ),
    errors.JobNotFinished: Meaning(
        Status.CONFLICT, "The job has not finished", retry_after=timedelta(seconds=1)
    ),
    errors.JobCancelled: Meaning(Status.GONE, "The job was cancelled"),
    errors.JobExpired: Meaning(Status.GONE, "The result has expired"),
    errors.BlobMissing: Meaning(Status.GONE, "The stored picture is gone"),
    errors.JobFailed: _INTERNAL,
    errors.EngineLost: Meaning(Status.INTERNAL_SERVER_ERROR, "The engine was lost"),
    errors.CheckpointReplaced: Meaning(
        Status.INTERNAL_SERVER_ERROR, "The checkpoint was replaced in the middle of the picture"
    ),
    errors.EngineOutOfMemory: Meaning(
        Status.INTERNAL_SERVER_ERROR, "The engine's device is out of memory"
    ),
    errors.ModelNotLoaded: Meaning(
        Status.INTERNAL_SERVER_ERROR, "The model could not be loaded again"
    ),
    errors.TileNotFinite: Meaning(
        Status.INTERNAL_SERVER_ERROR, "The network's output is not a picture"
    ),
    errors.WorkerLost: Meaning(Status.INTERNAL_SERVER_ERROR, "The worker was lost"),
    errors.JobCrashed: Meaning(Status.INTERNAL_SERVER_ERROR, "The job crashed"),
    errors.JobTimedOut: Meaning(Status.INTERNAL_SERVER_ERROR, "The job took too long"),
    errors.JobOutOfMemory: Meaning(Status.INTERNAL_SERVER_ERROR, "The job needed too much memory"),
    errors.BranchesNotKept: Meaning(Status.NOT_FOUND, "The job did not keep its branches"),
    # The batch
    errors.ArchiveInvalid: Meaning(Status.UNPROCESSABLE_ENTITY, "The zip cannot be read"),
    errors.BatchEmpty: Meaning(Status.UNPROCESSABLE_ENTITY, "There is nothing in the batch"),
    errors.BatchTooLarge: Meaning(Status.REQUEST_ENTITY_TOO_LARGE, "The batch is too large"),
    errors.EntryDamaged: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The file in the zip cannot be unpacked"
    ),
    errors.BatchNotFound: Meaning(Status.NOT_FOUND, "There is no such batch"),
    errors.BatchNotFinished: Meaning(
        Status.CONFLICT, "The batch has not finished", retry_after=timedelta(seconds=1)
    ),
    errors.BatchExpired: Meaning(Status.GONE, "The results have expired"),
    # Repeated requests
    errors.IdempotencyKeyReused: Meaning(
        Status.UNPROCESSABLE_ENTITY, "The idempotency key is taken"
    ),
    # The service
    errors.QueueFull: Meaning(Status.SERVICE_UNAVAILABLE, "The queue is full"),
    errors.QueueUnavailable: Meaning(
        Status.SERVICE_UNAVAILABLE, "The queue cannot be reached", retry_after=timedelta(seconds=5)
    ),
    errors.NoWorker: Meaning(
        Status.SERVICE_UNAVAILABLE, "No worker is ready", retry_after=timedelta(seconds=5)
    ),
    errors.StorageFull: Meaning(
        Status.INSUFFICIENT_STORAGE, "The picture store is full", retry_after=timedelta(seconds=60)
    ),
    errors.StorageUnavailable: Meaning(
        Status.SERVICE_UNAVAILABLE,
        "The picture store cannot be used",
        retry_after=timedelta(seconds=5),
    ),
    errors.ConfigurationInvalid: Meaning(Status.INTERNAL_SERVER_ERROR, "The settings are wrong"),
}

#: Problems that are no errors of ours: the framework finds them before any of our code runs.
PLAIN_MEANINGS: Mapping[str, Meaning] = {
    "not-found": Meaning(Status.NOT_FOUND, "There is nothing at this address"),
    "method-not-allowed": Meaning(
        Status.METHOD_NOT_ALLOWED, "This address does not take that method"
    ),
    "requested-range-not-satisfiable": Meaning(
        Status.REQUESTED_RANGE_NOT_SATISFIABLE, "The picture has no such part"
    ),
    "not-ready": Meaning(Status.SERVICE_UNAVAILABLE, "The service is not ready"),
}

_CLASSES = {
    error.slug: error for error, meaning in MEANINGS.items() if meaning is not _INTERNAL
} | {GDSRError.slug: GDSRError}


#: What a job may have failed of, as far as this release knows.
JOB_FAILURES = (
    GDSRError,
    *(kind for kind, meaning in MEANINGS.items()
      if issubclass(kind, errors.ImageRejected | errors.JobFailed) and meaning is not _INTERNAL),
    errors.ModelUnknown, errors.BranchesNotKept, errors.BlobMissing, errors.StorageFull,
    errors.StorageUnavailable,
)  # fmt: skip
#: What a batch may have failed of.
BATCH_FAILURES = (
    GDSRError, errors.ArchiveInvalid, errors.BatchEmpty, errors.BatchTooLarge, errors.QueueFull,
    errors.PixelsExceeded, errors.ModelUnknown, errors.NoWorker, errors.WorkerLost,
    errors.JobCrashed, errors.JobTimedOut, errors.JobOutOfMemory, errors.BlobMissing,
    errors.StorageFull, errors.StorageUnavailable,
)  # fmt: skip


#: Statuses after which clients ask again; of what has failed for good they would not be told more.
_AGAIN = {
    Status.TOO_MANY_REQUESTS, Status.BAD_GATEWAY, Status.SERVICE_UNAVAILABLE,
    Status.GATEWAY_TIMEOUT,
}  # fmt: skip


class ProblemDocument(BaseModel):
    """Why there is no better answer (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(examples=["/problems/queue-full"])
    """Address of a document on this kind of problem; stable, so compare this."""
    title: str
    """The kind of problem in words; the same each time."""
    status: int
    """The status of the answer, repeated."""
    detail: str | None = None
    """What happened this time: the numbers, the limits, what to do."""
    instance: str | None = None
    """The path of the request, or of the job that failed."""
    request_id: str | None = None
    """For an internal error: what to look for in the log."""
    errors: tuple[Fault, ...] | None = None
    """For an invalid request: everything that is wrong with it."""
    limits: dict[str, int] | None = None
    """For what is too large or too many: the limit, by its name in `GET /limits`."""
    checks: dict[str, str] | None = None
    """For a service that is not ready: each thing it needs, and `ok` or what is wrong with it."""


def problem_type(slug: str) -> str:
    """The address that names a kind of problem."""
    return address(f"/problems/{slug}")


def describe(error: GDSRError, *, instance: str) -> ProblemDocument:
    """The document of an error."""
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
    """The status of a job or batch that failed of this: never one after which clients ask again."""
    status = MEANINGS[kind].status
    return Status.INTERNAL_SERVER_ERROR if status in _AGAIN else status


def describe_failure(failure: JobFailure, *, instance: str | None) -> ProblemDocument:
    """The document of a failed job; a newer worker may know errors that this release does not."""
    kind = _CLASSES.get(failure.slug, GDSRError)
    return ProblemDocument(
        type=problem_type(failure.slug),
        title=MEANINGS[kind].title,
        status=failed_status(kind),
        detail=failure.detail,
        instance=instance,
    )


def answer(problem: ProblemDocument, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response that carries a problem."""
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def extra_headers(error: GDSRError) -> dict[str, str]:
    """`Retry-After`, where trying again later may help; for a missing key, how to send it."""
    if MEANINGS[type(error)].status is Status.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="GDSR"'}
    pause = error.pause or MEANINGS[type(error)].retry_after
    return {} if pause is None else {"Retry-After": str(math.ceil(pause.total_seconds()))}


class ProblemType(BaseModel):
    """A kind of problem: what is the same each time."""

    model_config = ConfigDict(frozen=True)

    type: str
    title: str
    status: int
    about: str


def explain(slug: str) -> ProblemType | None:
    """What is behind `/problems/<slug>`; None: there is no such kind."""
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
