"""Completes the OpenAPI description: statuses, headers, content types and problems.

Endpoints declare their own responses; `describe_app` adds those that every endpoint has.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.http.problems import (
    BATCH_FAILURES,
    JOB_FAILURES,
    MEDIA_TYPE,
    PLAIN_MEANINGS,
    ProblemDocument,
    failed_status,
)
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


_HEADERS: Mapping[str, tuple[str, str]] = {
    "Accept-Ranges": ("string", "`bytes`: range requests are supported"),
    "Cache-Control": ("string", "Who may cache the response"),
    "Cache-Status": ("string", "Whether the result was copied from an equal upload (RFC 9211)"),
    "Content-Digest": ("string", "SHA-256 of the content (RFC 9530)"),
    "Content-Disposition": (
        "string",
        "File name: by GDSR_RESULT_NAME from the client's name, else the job's id",
    ),
    "Content-Location": ("string", "Address of the picture"),
    "Content-Range": ("string", "The byte range of the response"),
    "Content-Security-Policy": ("string", "For browsers: load only our own files"),
    "ETag": ("string", "Entity tag: the same for the same content"),
    "Location": ("string", "Address to poll"),
    "Preference-Applied": ("string", "The wait that was applied"),
    "RateLimit": ("string", "What is left of each limit, and seconds until it resets"),
    "RateLimit-Policy": ("string", "The limits of the API key"),
    "Referrer-Policy": ("string", "For browsers: send no referrer"),
    "Repr-Digest": ("string", "SHA-256 of the whole picture (RFC 9530)"),
    "Retry-After": ("integer", "Seconds until the next retry or poll"),
    "Server-Timing": ("string", "Time per stage, in milliseconds"),
    "WWW-Authenticate": ("string", "How to authenticate"),
    "X-Accel-Buffering": ("string", "For proxies: do not buffer events"),
    "X-Content-Type-Options": ("string", "For browsers: do not guess the content type"),
    "X-Request-ID": ("string", "Id of the request in the log"),
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


_WITHOUT_CONTENT = (
    "ETag", "Repr-Digest", "Content-Location", "Server-Timing", "Accept-Ranges",
    "Preference-Applied",
)  # fmt: skip
_OF_A_PICTURE = (*_WITHOUT_CONTENT, "Content-Disposition")
#: Responses of a picture's address when there is a picture.
PICTURE: Responses = {
    200: {
        "description": "The picture",
        "content": PICTURE_TYPES,
        "headers": headers(*_OF_A_PICTURE, "Content-Digest"),
    },
    206: {
        "description": "The byte range that `Range` asked for",
        "content": PICTURE_TYPES,
        "headers": headers(*_OF_A_PICTURE, "Content-Range"),
    },
    307: {
        "description": "Redirect to a signed address of the bucket",
        "headers": headers("Location", *_WITHOUT_CONTENT),
    },
    304: {
        "description": "Not modified: the client has the current version",
        "headers": headers(*_WITHOUT_CONTENT),
    },
}


#: The same for the zip of a batch.
ARCHIVE: Responses = {
    status: {
        **response,
        **({"content": {"application/zip": BINARY}} if "content" in response else {}),
        "headers": {
            name: header for name, header in response["headers"].items() if name != "Server-Timing"
        },
    }
    for status, response in PICTURE.items()
}


def documented(
    *kinds: type[GDSRError], plain: tuple[str, ...] = (), failed: bool = False
) -> Responses:
    """The problems of an endpoint by status; `plain` are slugs of `PLAIN_MEANINGS`.

    With `failed` they are the failures of a job or batch.
    """
    found: dict[int, list[str]] = {}
    retried: set[int] = set()
    for kind in dict.fromkeys(kinds):
        status = int(failed_status(kind) if failed else kind.status)
        found.setdefault(status, []).append(kind.slug)
        if not failed and (kind.pause or status in (429, 503)):
            retried.add(status)
    for slug in plain:
        found.setdefault(PLAIN_MEANINGS[slug].status.value, []).append(slug)
    return {
        status: {
            "description": ", ".join(f"`{slug}`" for slug in slugs),
            "headers": headers(
                *(("WWW-Authenticate",) if status == 401 else ()),
                *(("Retry-After",) if status in retried else ()),
                *(("Content-Range",) if status == 416 else ()),
            ),
            "content": {MEDIA_TYPE: {"schema": _problem_schema(status, slugs)}},
        }
        for status, slugs in found.items()
    }


def merged(*parts: Responses) -> Responses:
    """Merge responses of several sources; problems with the same status become one."""
    found: Responses = {}
    for part in parts:
        for status, response in part.items():
            found[status] = _both(found[status], response) if status in found else response
    return found


def pending(description: str, view: type[BaseModel], links: Mapping[str, object]) -> Responses:
    """The response 202 of something that a client polls or waits for."""
    names = "Location", "Retry-After", "Preference-Applied"
    described = {"description": description, "headers": headers(*names)}
    return {202: {**described, "model": view, "links": links}}


def bodiless(responses: Responses) -> Responses:
    """The same responses for HEAD, without bodies."""
    return {
        status: {
            name: part for name, part in response.items() if name in ("description", "headers")
        }
        for status, response in responses.items()
    }


def _problem_schema(status: int, slugs: list[str]) -> dict[str, Any]:
    kinds = {"type": {"enum": [f"/problems/{slug}" for slug in slugs]}, "status": {"const": status}}
    return {
        "allOf": [
            {"$ref": "#/components/schemas/ProblemDocument"},
            {"type": "object", "properties": kinds},
        ]
    }


def _slugs(response: dict[str, Any]) -> list[str]:
    kinds = response["content"][MEDIA_TYPE]["schema"]["allOf"][1]["properties"]["type"]["enum"]
    return [str(kind).removeprefix("/problems/") for kind in kinds]


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    slugs = list(dict.fromkeys(_slugs(one) + _slugs(other)))
    status = one["content"][MEDIA_TYPE]["schema"]["allOf"][1]["properties"]["status"]["const"]
    return {
        "description": ", ".join(f"`{slug}`" for slug in slugs),
        "headers": {**one.get("headers", {}), **other.get("headers", {})},
        "content": {MEDIA_TYPE: {"schema": _problem_schema(status, slugs)}},
    }


#: Failures of a job, reported at the address of its result.
OF_A_FAILED_JOB = documented(*JOB_FAILURES, failed=True)
#: Failures of a batch.
OF_A_FAILED_BATCH = documented(*BATCH_FAILURES, failed=True)
#: Possible at every address that needs an API key.
OF_THE_OWNER = (errors.KeyMissing, errors.KeyInvalid, errors.QueueUnavailable)


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
        name: {"description": about, "schema": {"type": kind}, "required": name in _ALWAYS_SENT}
        for name, (kind, about) in _HEADERS.items()
    }
    components["schemas"].setdefault(
        "ProblemDocument",
        ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}"),
    ).pop("$defs", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)  # replaced: errors are problem documents
    everywhere = headers(*_EVERYWHERE)
    internal = documented(GDSRError)[500]
    for item in description["paths"].values():
        for operation in item.values():
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):
                del responses["422"]
            known = responses.get("500", deepcopy(internal))
            responses["500"] = _both(known, internal) if "content" in known else known
            for response in responses.values():
                response["headers"] = {**response.get("headers", {}), **everywhere}
                for content in response.get("content", {}).values():
                    _prefix(content, root_path)
            operation["responses"] = dict(sorted(responses.items()))


def _prefix(content: dict[str, Any], root_path: str) -> None:
    """Prefix the `type` of problems, which is an address, with the root path."""
    for part in content.get("schema", {}).get("allOf", ()):
        kinds = part.get("properties", {}).get("type", {})
        if "enum" in kinds:
            kinds["enum"] = [root_path + kind for kind in kinds["enum"]]
