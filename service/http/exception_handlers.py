"""Exception handlers: convert errors and exceptions to problem documents."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from service.http import problems
from workers.contract.errors import GDSRError
from workers.contract.validation_messages import error_message

#: The client never sees this status: it is for the log and the metrics.
CLIENT_CLOSED_REQUEST = 499
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def install(app: FastAPI) -> None:
    """Install handlers for all known errors; `RequestMiddleware` handles the rest."""

    @app.exception_handler(GDSRError)
    async def own_error(request: Request, error: GDSRError) -> Response:
        return problems.error_response(error, instance=request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        fields = [
            problems.Fault(
                place=str(place), name=".".join(map(str, path)), message=error_message(found)
            )
            for found in error.errors()
            for place, *path in [found["loc"]]
        ]
        return problems.error_response(problems.RequestInvalid(fields), instance=request.url.path)

    @app.exception_handler(HTTPException)
    async def framework_error(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        headers = dict(error.headers or {})
        detail = None if error.detail == status.phrase else error.detail
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_allowed(request))
            detail = f"{request.method} is not allowed here; allowed: {headers['Allow']}"
        slug = status.phrase.lower().replace(" ", "-")
        kind = problems.KINDS.get(slug)
        problem = problems.ProblemDocument(
            type=problems.problem_type(slug) if kind else "about:blank",
            title=kind.title if kind else status.phrase,
            status=status,
            detail=detail,
            instance=request.url.path,
        )
        return problems.problem_response(problem, headers)

    @app.exception_handler(ClientDisconnect)
    async def client_left(request: Request, error: ClientDisconnect) -> Response:  # noqa: ARG001
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes at an address; the framework reports only those of the first."""
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]
