"""Serves a stored picture over HTTP: whole, a byte range, 304 Not Modified, or a redirect.

Pictures are streamed in chunks, so that a download of any size takes the memory of one chunk.
Redirects go to signed URLs of the store.
"""

import itertools
import re
import unicodedata
from collections.abc import Generator, Iterator, Mapping
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from anyio import to_thread
from fastapi import Header, HTTPException, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from service.services import Services
from service.transfer.digests import shown_digest
from workers.contract.blobs.base import StoredBlob
from workers.contract.queue.batches import Archive
from workers.contract.queue.jobs import JobResult

#: The headers of a download, declared by endpoints and read here.
IfNoneMatch = Annotated[str | None, Header(description="Entity tags that the client has cached")]
Prefer = Annotated[
    list[str],
    Header(default_factory=list, description="`wait=N`: wait up to N seconds for the result"),
]
ByteRange = Annotated[str | None, Header(description="The byte range to send, as `bytes=0-1023`")]
#: Chunks between two checks whether the client is still connected.
_CHUNKS_PER_CHECK = 8
#: More digits are no size of a file, and Python refuses to convert thousands of them.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def download(
    services: Services,
    stored: JobResult | StoredBlob | Archive,
    request: Request,
    *,
    media_type: str,
    name: str,
    headers: Mapping[str, str],
) -> Response:
    """The response to a request for a stored file, which is called `name` there.

    Raises BlobMissing if it is not stored any more.
    """
    key, size, tag = stored.key, stored.size, f'"{stored.sha256}"'
    disposition = content_disposition(name)
    headers = {
        "ETag": tag,
        "Cache-Control": "private, no-cache",
        "Repr-Digest": shown_digest(stored.sha256),
        "Accept-Ranges": "bytes",
        **headers,
    }
    if etag_matches(tag, request):
        return Response(status_code=304, headers=headers)
    blobs, lifetime = services.blobs, services.settings.signed_results
    if lifetime is not None and _may_redirect(request):
        headers["Location"] = str(
            blobs.signed_url(key, lifetime=lifetime, media_type=media_type, disposition=disposition)
        )
        return Response(status_code=307, headers=headers)
    headers["Content-Disposition"] = disposition
    headers["Content-Length"] = str(size)
    if request.method == "HEAD":
        return Response(headers=headers, media_type=media_type)
    part = _part(request, tag=tag, size=size)
    if part is None:
        headers["Content-Digest"] = headers["Repr-Digest"]  # the content is the whole picture
        return _BlobResponse(services, request, blobs.stream(key), headers, media_type)
    start, stop = part
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    chunks = blobs.stream(key, start=start, stop=stop)
    return _BlobResponse(services, request, chunks, headers, media_type, status_code=206)


class _BlobResponse(Response):
    """Streams a blob in chunks; the first is read at once, in the thread that creates the response.

    Starlette's streaming response detects a disconnect with an extra task for each response; this
    one checks every few chunks.
    """

    def __init__(
        self,
        services: Services,
        request: Request,
        chunks: Iterator[bytes],
        headers: Mapping[str, str],
        media_type: str,
        *,
        status_code: int = 200,
    ) -> None:
        super().__init__(status_code=status_code, headers=headers, media_type=media_type)
        self._services, self._request, self._chunks = services, request, chunks
        self._left = int(headers["Content-Length"])
        self._first = next(chunks, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        chunk = self._first
        try:
            for count in itertools.count(1):
                self._left -= len(chunk)
                more = bool(chunk) and self._left > 0
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
                if not more or (
                    count % _CHUNKS_PER_CHECK == 0 and await self._request.is_disconnected()
                ):
                    return
                chunk = await to_thread.run_sync(
                    next, self._chunks, b"", limiter=self._services.transfers
                )
        finally:
            if isinstance(self._chunks, Generator):
                self._chunks.close()  # now, not when the garbage collector runs


def _may_redirect(request: Request) -> bool:
    """True if the client may be redirected to the store: not after POST, and not a page of this
    origin, which may load from its own origin only.
    """
    return request.method == "GET" and request.headers.get("Sec-Fetch-Site") != "same-origin"


def etag_matches(tag: str, request: Request) -> bool:
    """True if `If-None-Match` of a GET or HEAD names this entity tag, strong or weak."""
    if request.method not in ("GET", "HEAD"):
        return False
    named = request.headers.get("If-None-Match", "")
    return named.strip() == "*" or tag in (
        part.strip().removeprefix("W/") for part in named.split(",")
    )


def _part(request: Request, *, tag: str, size: int) -> tuple[int, int] | None:
    """Start and stop offset of the requested `Range` (RFC 9110, section 14).

    None for the whole picture: there is no such header, `If-Range` names another picture, or the
    header is invalid or asks for several ranges, and may then be ignored.
    """
    wanted_range = _RANGE.fullmatch(request.headers.get("Range", ""))
    if wanted_range is None or wanted_range[0] == "bytes=-" or request.method != "GET":
        return None
    if request.headers.get("If-Range", tag) != tag:
        return None
    first, last = wanted_range.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= min(stop, size):
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the picture has {size:,} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, stop


def result_name(template: str, name: str, *, scale: float) -> str:
    """The file name of a result, by the template: `kitten-4x.jpg` for `kitten.jpg`."""
    return template.replace("{scale}", f"{round(scale, 2):g}").replace("{name}", stem(name))


def stem(name: str) -> str:
    """A file name without its ending."""
    return name.rpartition(".")[0] or name


def content_disposition(name: str) -> str:
    """`inline` with a file name, in ASCII and, if needed, in UTF-8 (RFC 6266)."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r'["\\%/]', "_", plain).strip()
    if plain.startswith("."):
        plain = f"result{plain}"
    header = f'inline; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"
