"""An upload, streamed to the blob store's incoming folder as it arrives.

One pass and one copy: chunks are parsed, hashed and written before more is read, so that an upload
of any size takes the memory of one chunk. Disk and hash work runs in a thread, by chunks. The
content type alone decides whether a body is a form, JSON or a file; the file is not checked here.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

from anyio import to_thread
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.multipart import parse_options_header

from service.http.problems import RequestInvalid
from service.services import Services
from service.transfer.digests import check_digests, promised_digests
from service.transfer.incoming import Upload
from service.transfer.json_body import MAX_BYTES, read_json
from service.transfer.multipart import Form
from workers.contract.blobs.base import BlobStore
from workers.contract.errors import GDSRError, QueueUnavailable

#: Received bytes are handed to a thread in pieces of this size: most pictures are one piece.
_PIECE_BYTES = 256 * 1024

Accepted = TypeVar("Accepted")


async def receive(
    request: Request, services: Services, upload: Upload, accept: Callable[[Upload], Accepted]
) -> Accepted:
    """Read the body into `upload`; return the result of `accept`, called with it in a thread.

    The file is deleted at the end unless kept in the store.

    Raises:
        UploadTooLarge: more bytes than the upload may have; the rest is not read.
        ImageMissing: there is no picture.
        RequestInvalid: the form is malformed, or has two pictures or an unknown file.
        DigestMismatch: the body differs from the digest that was sent with it.
        ClientDisconnect: the client has left.
    """
    kind, parameters = parse_options_header(request.headers.get("Content-Type"))
    write: Callable[[bytes], object] = upload.write
    fields: Callable[[], list[tuple[str, str]]] = list
    most = upload.limit
    if kind == b"multipart/form-data":
        form = Form(parameters, upload)
        write, fields, most = form.write, form.end, most + upload.overhead
    elif kind == b"application/json" and upload.takes_json:
        data = bytearray()
        write, fields, most = data.extend, partial(read_json, data, upload), MAX_BYTES
        upload.limit, upload.place = min(upload.limit, most), "body"
    coding = request.headers.get("Content-Encoding", "identity")
    if fields is not list and coding.lower() != "identity":
        message = f"{coding} is not decoded; send the body as it is"
        raise RequestInvalid.of("header", "Content-Encoding", message)
    if int(request.headers.get("Content-Length", 0)) > most:
        raise upload.too_large()
    promised = promised_digests(request.headers)
    digest = hashlib.sha256() if promised else None
    received = pending = 0
    chunks: list[bytes] = []
    opened = ExitStack()

    # A thread switch costs as much as the work on a small picture, so that one thread does all the
    # remaining work at the end.
    def take(*, first: bool) -> None:
        if first:
            upload.open(opened.enter_context(services.blobs.incoming()))
            opened.callback(upload.close)
        for chunk in chunks:
            if digest is not None:
                digest.update(chunk)
            write(chunk)

    def end(*, first: bool) -> Accepted:
        with opened:
            take(first=first)
            upload.fields = fields()
            if digest is not None:
                check_digests(promised, sha256=digest.hexdigest())
            upload.end()
            return accept(upload)

    first = True
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > most:
                raise upload.too_large()
            chunks.append(chunk)
            pending += len(chunk)
            if pending >= _PIECE_BYTES:
                await to_thread.run_sync(partial(take, first=first), limiter=services.transfers)
                pending, first = 0, False
                chunks.clear()
        leaving = asyncio.ensure_future(_disconnected(request))
        upload.client_left = leaving.done
        try:
            return await run_in_threadpool(end, first=first)
        finally:
            leaving.cancel()
    except BaseException:
        await run_in_threadpool(opened.close)
        raise


async def _disconnected(request: Request) -> None:
    """Wait until the client disconnects; its body has arrived already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextmanager
def deleted_if_refused(store: BlobStore, *keys: str) -> Iterator[None]:
    """Delete these blobs if the block could not queue the job that they were stored for.

    If the outcome is unknown, a job may need them, so they stay; the janitor removes unused ones.
    """
    try:
        yield
    except GDSRError as failure:
        if not isinstance(failure, QueueUnavailable) or failure.refused:
            store.delete(*keys)
        raise
