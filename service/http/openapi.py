"""Completes the OpenAPI description: statuses, headers, content types and problems.

Endpoints declare their own responses; `describe_app` adds those that every endpoint has.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.http.problems import MEDIA_TYPE, failed_status
from workers.contract import errors
from workers.contract.errors import GDSRError
from workers.contract.images.formats import ResultFormat

Responses = dict[int | str, dict[str, Any]]
BINARY = {"schema": {"type": "string", "format": "binary"}}
PICTURE_TYPES = {name.media_type: BINARY for name in ResultFormat}


def form(properties: Mapping[str, object], *required: str) -> dict[str, Any]:
    """The content of a form or a JSON object with these fields and no others."""
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"schema": {**schema, "required": required} if required else schema}


_HEADERS: Mapping[str, str] = {
    "Accept-Ranges": "`bytes`: range requests are supported",
    "Cache-Control": "Who may cache the response",
    "Cache-Status": "A hit if the result was copied from an equal upload (RFC 9211)",
    "Content-Digest": "SHA-256 of the content (RFC 9530)",
    "Content-Disposition": (
        "File name: the client's name in the form of GDSR_RESULT_NAME, else the job's id"
    ),
    "Content-Location": "Address of the file",
    "Content-Range": "The byte range of the response",
    "Content-Security-Policy": "For browsers: load only our own files",
    "ETag": "Entity tag: the same for the same content",
    "Location": "Address to poll",
    "Preference-Applied": "The wait that was applied",
    "RateLimit": "Remaining quota of each limit, and seconds until it resets",
    "RateLimit-Policy": "The limits of the API key",
    "Referrer-Policy": "For browsers: send no referrer",
    "Repr-Digest": "SHA-256 of the whole file (RFC 9530)",
    "Retry-After": "Seconds until the next retry or poll",
    "Server-Timing": "Time per stage, in milliseconds",
    "WWW-Authenticate": "How to authenticate",
    "X-Accel-Buffering": "For proxies: do not buffer events",
    "X-Content-Type-Options": "For browsers: do not guess the content type",
    "X-Request-ID": "Id of the request in the log",
}
#: Headers that `service.http.middleware` adds to every response.
_EVERYWHERE = (
    "Cache-Control", "Content-Security-Policy", "Referrer-Policy", "X-Content-Type-Options",
    "X-Request-ID",
)  # fmt: skip
_ALWAYS_SENT = {
    *_EVERYWHERE, "Location", "WWW-Authenticate", "ETag", "Content-Range", "Accept-Ranges",
}  # fmt: skip


def headers(*names: str) -> dict[str, Any]:
    """The `headers` of a response."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _download(description: str, content: Mapping[str, object], *timing: str) -> Responses:
    """The responses of the address of a stored file."""
    without_content = headers(
        "ETag", "Repr-Digest", "Content-Location", *timing, "Accept-Ranges", "Preference-Applied"
    )
    described = without_content | headers("Content-Disposition")
    return {
        200: {
            "description": description,
            "content": content,
            "headers": described | headers("Content-Digest"),
        },
        206: {
            "description": "The requested byte range",
            "content": content,
            "headers": described | headers("Content-Range"),
        },
        307: {
            "description": "Redirect to a signed URL of the bucket",
            "headers": without_content | headers("Location"),
        },
        304: {
            "description": "Not modified: the client has the current version",
            "headers": without_content,
        },
    }


#: Responses of the address of a picture, and of the zip of a batch.
PICTURE = _download("The picture", PICTURE_TYPES, "Server-Timing")
ARCHIVE = _download("The zip", {"application/zip": BINARY})
#: Problems of every address that needs an API key.
OF_THE_OWNER = (errors.KeyMissing, errors.KeyInvalid, errors.QueueUnavailable)
#: Errors whose `Retry-After` varies.
_PAUSE_WHEN_RAISED = (errors.QueueFull, errors.RateExceeded, errors.PixelsExceeded)


def documented(*problems: type[GDSRError], failures: Iterable[type[GDSRError]] = ()) -> Responses:
    """Problems of an endpoint by status: errors, and failures, which clients do not retry."""
    found: dict[int, dict[str, None]] = {}
    retried: set[int] = set()
    for problem in problems:
        found.setdefault(problem.status, {})[problem.slug] = None
        if problem.pause or problem in _PAUSE_WHEN_RAISED:
            retried.add(problem.status)
    for kind in failures:
        found.setdefault(failed_status(kind), {})[kind.slug] = None
    return {
        int(status): {
            "description": ", ".join(f"`{slug}`" for slug in slugs),
            "headers": headers(
                *(("WWW-Authenticate",) if status == 401 else ()),
                *(("Retry-After",) if status in retried else ()),
                *(("Content-Range",) if status == 416 else ()),
            ),
            "content": {MEDIA_TYPE: {"schema": _problem_schema(int(status), slugs)}},
        }
        for status, slugs in found.items()
    }


def pending(
    description: str, view: type[BaseModel], links: Mapping[str, object], *more: str
) -> Responses:
    """The response 202 with an address to poll; `more` are additional headers."""
    named = headers("Location", "Retry-After", *more)
    return {202: {"description": description, "headers": named, "model": view, "links": links}}


def bodiless(responses: Responses) -> Responses:
    """The same responses for HEAD, without bodies."""
    kept = ("description", "headers")
    return {
        status: {name: response[name] for name in kept if name in response}
        for status, response in responses.items()
    }


def _problem_schema(status: int, slugs: Iterable[str]) -> dict[str, Any]:
    kinds = {"type": {"enum": [f"/problems/{slug}" for slug in slugs]}, "status": {"const": status}}
    return {
        "allOf": [
            {"$ref": "#/components/schemas/ProblemDocument"},
            {"type": "object", "properties": kinds},
        ]
    }


def _links(parameter: str, *links: tuple[str, str, str]) -> dict[str, Any]:
    return {
        name: {
            "operationId": operation,
            "parameters": {parameter: "$response.body#/id"},
            "description": about,
        }
        for name, operation, about in links
    }


#: Links of a response that names a job.
JOB_LINKS = _links(
    "job_id",
    ("read", "read_job", "State of the job"),
    ("events", "watch_job", "Server-sent events for its changes"),
    ("result", "read_result", "The picture, once the job has succeeded"),
    ("delete", "delete_job", "Cancel the job, or delete it once it has ended"),
)
#: Links of a response that names a batch.
BATCH_LINKS = _links(
    "batch_id",
    ("read", "read_batch", "State of the batch"),
    ("result", "read_batch_result", "The zip, once every job has ended"),
    ("delete", "delete_batch", "Cancel and delete the batch"),
)


def describe_app(app: FastAPI, *, root_path: str) -> None:
    """Complete the application's OpenAPI description."""
    own = app.openapi
    if root_path:
        app.servers = [{"url": root_path}]

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(own(), root_path)
        return own()

    app.openapi = described  # type: ignore[method-assign]


def _complete(description: dict[str, Any], root_path: str) -> None:
    components = description["components"]
    components["headers"] = {
        name: {
            "description": about,
            "schema": {"type": "integer" if name == "Retry-After" else "string"},
            "required": name in _ALWAYS_SENT,
        }
        for name, about in _HEADERS.items()
    }
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)  # replaced: errors are problem documents
    for item in description["paths"].values():
        for operation in item.values():
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):
                del responses["422"]
            responses.setdefault("500", documented(GDSRError)[500])
            for response in responses.values():
                response["headers"] = response.get("headers", {}) | headers(*_EVERYWHERE)
                if problem := response.get("content", {}).get(MEDIA_TYPE):
                    kinds = problem["schema"]["allOf"][1]["properties"]["type"]
                    kinds["enum"] = [root_path + kind for kind in kinds["enum"]]  # addresses
            operation["responses"] = dict(sorted(responses.items()))
