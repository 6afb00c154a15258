"""`/`: the web page and its static files.

Small files without a build step. They are read and compressed once at startup; browsers cache
them and revalidate by entity tag.
"""

import gzip
import hashlib
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from service.transfer.downloads import etag_matches

_FOLDER = Path(__file__).parent / "page"
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
        packed = _takes_gzip(request)
        tag = f'"{self.tag}-gzip"' if packed else f'"{self.tag}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if etag_matches(tag, request):
            return Response(status_code=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        body = self.packed if packed else self.plain
        return Response(body, headers=headers, media_type=self.media_type)


def page_router() -> APIRouter:
    """The routes of the page and its files."""
    files = {path.relative_to(_FOLDER).as_posix(): _File(path) for path in _FOLDER.rglob("*.*")}
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return files["index.html"].response(request)

    @router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
    async def asset(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(status_code=404)
        return files[name].response(request)

    return router


def _takes_gzip(request: Request) -> bool:
    """Whether `Accept-Encoding` accepts gzip."""
    for part in request.headers.get("Accept-Encoding", "").split(","):
        name, _, weight = part.partition(";")
        if name.strip().lower() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
