"""`/docs`: Swagger UI, served locally under a strict content security policy.

The page and its one line of script are ours; the library's files come from the package
`fastapi-offline`, which is not imported.
"""

import importlib.util
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse

from workers.contract.errors import ConfigurationInvalid

_OURS = Path(__file__).parent
_THEIRS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")


def docs_router() -> APIRouter:
    """The routes of the documentation page and its files.

    Raises:
        ConfigurationInvalid: the package with Swagger UI is not installed.
    """
    package = importlib.util.find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise ConfigurationInvalid("Swagger UI is missing: install the extra `service`")
    static = Path(package.origin).parent / "static"
    files = {name: static / name for name in _THEIRS} | {"docs.js": _OURS / "docs.js"}
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def page() -> FileResponse:
        return FileResponse(_OURS / "docs.html")

    @router.get("/docs/{name}")
    async def asset(name: str) -> FileResponse:
        if name not in files:
            raise HTTPException(status_code=404)
        return FileResponse(files[name], headers={"Cache-Control": "max-age=3600"})

    @router.get("/openapi.json")
    async def description(request: Request) -> JSONResponse:
        return JSONResponse(request.app.openapi())

    return router
