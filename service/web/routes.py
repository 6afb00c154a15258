"""`/`: the web page and its static files; `/docs`: Swagger UI.

The page is small files without a build step. They are read and compressed once at startup; browsers
cache them and revalidate by entity tag. Swagger UI has a page and one line of script of ours under
a strict content security policy; its files come from the package `fastapi-offline`, which is not
imported.
"""

import gzip
import hashlib
import importlib.util
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from service.transfer.downloads import etag_matches
from service.transfer.negotiation import quality_values
from workers.contract.errors import ConfigurationInvalid

_WEB = Path(__file__).parent
_FOLDER = _WEB / "page"
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}


class _File:
    def __init__(self, path: Path) -> None:
        self.plain = path.read_bytes()
        self.packed = gzip.compress(self.plain, mtime=0)
        self.media_type = _TYPES[path.suffix]
        self.tag = hashlib.sha256(self.plain).hexdigest()[:32]

    def response(self, request: Request) -> Response:
        packed = quality_values(request.headers.get("Accept-Encoding", "")).get("gzip", 0) > 0
        tag = f'"{self.tag}-gzip"' if packed else f'"{self.tag}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if etag_matches(tag, request):
            return Response(status_code=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        body = self.packed if packed else self.plain
        return Response(body, headers=headers, media_type=self.media_type)


def page_router() -> APIRouter:
    """The routes of the page, of the documentation and of their files.

    Raises:
        ConfigurationInvalid: the package with Swagger UI is not installed.
    """
    package = importlib.util.find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise ConfigurationInvalid("Swagger UI is missing: install the extra `service`")
    static = Path(package.origin).parent / "static"
    docs = {name: static / name for name in _SWAGGER} | {"docs.js": _WEB / "docs.js"}
    found = (path for path in _FOLDER.rglob("*.*") if path.suffix in _TYPES)
    files = {path.relative_to(_FOLDER).as_posix(): _File(path) for path in found}
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return files["index.html"].response(request)

    @router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
    async def asset(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(status_code=404)
        return files[name].response(request)

    @router.get("/docs")
    async def docs_page() -> FileResponse:
        return FileResponse(_WEB / "docs.html")

    @router.get("/docs/{name}")
    async def docs_asset(name: str) -> FileResponse:
        if name not in docs:
            raise HTTPException(status_code=404)
        return FileResponse(docs[name], headers={"Cache-Control": "max-age=3600"})

    @router.get("/openapi.json")
    async def description(request: Request) -> JSONResponse:
        return JSONResponse(request.app.openapi())

    return router
