"""Maps errors to RFC 9457 problem documents.

A failed job stores the slug and the message of its error and is mapped here too.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus as Status
from string import Formatter
from typing import Self

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.http.proxy import address
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

    slug, status, title = "invalid-request", 422, "The request is not valid"

    def __init__(self, fields: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{field.name}: {field.message}" for field in fields))
        self.fields = tuple(fields)

    @classmethod
    def of(cls, place: str, name: str, message: str) -> Self:
        """The error for one invalid field."""
        return cls([Fault(place=place, name=name, message=message)])


class NotFound(GDSRError):
    """No route has this path, or there is no such file, problem type or reload."""

    slug, status, title = "not-found", 404, "There is nothing at this address"


class MethodNotAllowed(GDSRError):
    """`Allow` lists the methods of this address."""

    slug, status, title = "method-not-allowed", 405, "The method is not allowed at this address"


class RangeNotSatisfiable(GDSRError):
    """`Range` starts after the end of the file; `Content-Range` has its size."""

    slug, status = "requested-range-not-satisfiable", 416
    title = "The range is not satisfiable"


class NotReady(GDSRError):
    """A dependency is missing, so that a picture sent now would not be processed."""

    slug, status, title = "not-ready", 503, "The service is not ready"

    def __init__(self, checks: Mapping[str, str]) -> None:
        super().__init__(
            "; ".join(f"{name}: {what}" for name, what in checks.items() if what != "ok")
        )
        self.checks = dict(checks)


def _kinds(base: type[GDSRError]) -> Iterator[type[GDSRError]]:
    if "slug" in vars(base):
        yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


#: Every error that a client may see, by slug.
KINDS: Mapping[str, type[GDSRError]] = {kind.slug: kind for kind in _kinds(GDSRError)}

#: Possible failures of a job in this release.
JOB_FAILURES: tuple[type[GDSRError], ...] = (
    GDSRError,
    *(kind for kind in KINDS.values()
      if issubclass(kind, errors.ImageRejected | errors.JobFailed)),
    errors.ModelUnknown, errors.BranchesNotKept, errors.BlobMissing, errors.StorageFull,
    errors.StorageUnavailable,
)  # fmt: skip
#: Possible failures of a batch in this release.
BATCH_FAILURES: tuple[type[GDSRError], ...] = (
    GDSRError, errors.ArchiveInvalid, errors.BatchEmpty, errors.BatchTooLarge, errors.QueueFull,
    errors.PixelsExceeded, errors.ModelUnknown, errors.NoWorker, errors.WorkerLost,
    errors.JobCrashed, errors.JobTimedOut, errors.JobOutOfMemory, errors.BlobMissing,
    errors.StorageFull, errors.StorageUnavailable,
)  # fmt: skip


#: Statuses that clients retry; a permanent failure must not have one of them.
_RETRYABLE = {
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
    """This occurrence: numbers, limits, and the remedy."""
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


def explanation(kind: type[GDSRError]) -> str:
    """A kind of problem in a sentence: its docstring, else its message with `...` as values."""
    if kind.__doc__:
        return " ".join(kind.__doc__.split("\n\n")[0].split())
    parts = Formatter().parse(kind.detail)
    return "".join(text if field is None else f"{text}..." for text, field, *_ in parts)


def error_response(
    error: GDSRError, *, instance: str, request_id: str | None = None
) -> JSONResponse:
    """The response for an error; an internal error has no detail."""
    problem = ProblemDocument(
        type=problem_type(error.slug),
        title=error.title,
        status=error.status,
        detail=None if error.slug == GDSRError.slug else str(error),
        instance=instance,
        request_id=request_id,
        errors=error.fields if isinstance(error, RequestInvalid) else None,
        checks=error.checks if isinstance(error, NotReady) else None,
        limits=dict(error.limits) or None,
    )
    headers = {}
    if error.status == Status.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="GDSR"'
    if error.pause is not None:
        headers["Retry-After"] = str(math.ceil(error.pause.total_seconds()))
    return problem_response(problem, headers)


def failed_status(kind: type[GDSRError]) -> Status:
    """The status of a job or batch with this failure; never one that clients retry."""
    return Status.INTERNAL_SERVER_ERROR if kind.status in _RETRYABLE else Status(kind.status)


def describe_failure(failure: JobFailure, *, instance: str | None) -> ProblemDocument:
    """The problem document of a failed job; slugs of newer workers are internal errors."""
    kind = KINDS.get(failure.slug, GDSRError)
    return ProblemDocument(
        type=problem_type(failure.slug),
        title=kind.title,
        status=failed_status(kind),
        detail=failure.detail,
        instance=instance,
    )


def problem_response(
    problem: ProblemDocument, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The response with a problem document."""
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )
