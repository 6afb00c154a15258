"""An upload, streamed to the blob store's incoming folder as it arrives.

One pass and one copy: chunks are parsed, hashed and written before more is read, so that an upload
of any size takes the memory of one chunk. Disk and hash work runs in a thread, by chunks. The
content type alone decides whether a body is a form, JSON or a file; the file is not checked here.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from service.http.problems import Fault, RequestInvalid
from service.transfer import json_body
from service.transfer.digests import check_digests, promised_digests
from service.transfer.json_body import JsonBody
from service.transfer.mistakes import NOT_FETCHED, is_url
from service.transfer.multipart import IMAGE_FIELD, Form
from workers.contract.blobs.base import BlobStore, translated_disk_errors
from workers.contract.errors import GDSRError, ImageMissing, QueueUnavailable, UploadTooLarge

#: Bytes that a form may add to its files: boundaries, part headers and the other fields.
FORM_OVERHEAD_BYTES = 64 * 1024
#: Received bytes are handed to a thread in pieces of this size: most pictures are one piece.
_PIECE_BYTES = 256 * 1024

Accepted = TypeVar("Accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A complete upload: a file and the form fields sent with it."""

    file: BinaryIO
    size: int
    sha256: str
    fields: tuple[tuple[str, str], ...]
    file_name: str
    """As sent in the form, not sanitised."""
    client_left: Callable[[], bool] = lambda: False

    def check_awaited(self) -> None:
        """Check that the client is still there, before a job is queued that nobody asks for.

        Raises:
            ClientDisconnect: it has closed the connection.
        """
        if self.client_left():
            raise ClientDisconnect


class PictureSink:
    """Writes the bytes of one file, the body or one field of a form, into the store."""

    file: BinaryIO
    out: IO[bytes]
    """Output for bytes: `file`, or an entry of an archive in it."""
    expected = IMAGE_FIELD

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.digest = hashlib.sha256()
        self.named = False
        self.file_name = ""

    @property
    def sha256(self) -> str:
        """Digest of all that was written."""
        return self.digest.hexdigest()

    def open(self, file: BinaryIO) -> None:
        """Write to this file from now on."""
        self.file = self.out = file

    def begin(self, field: str, file_name: str) -> bool:
        """See `Files`."""
        if field != self.expected:
            return False
        if self.named:
            raise RequestInvalid.of("form", field, "given twice; send one")
        self.named, self.file_name = True, file_name
        return True

    def write(self, chunk: bytes) -> None:
        """Add some bytes.

        Raises:
            GDSRError: the file is too large, or the store has no room.
        """
        self.size += len(chunk)
        if self.size > self.limit:
            raise self.too_large()
        self.digest.update(chunk)
        with translated_disk_errors():
            self.out.write(chunk)

    def end(self) -> int:
        """Complete the file; return its size.

        Raises:
            GDSRError: the file is empty, or the store has no room.
        """
        if not self.size:
            raise ImageMissing
        with translated_disk_errors():  # a full disk is reported here, not to a reader of the file
            self.file.flush()
        return self.size

    def close(self) -> None:
        """Release what the sink opened itself; `file` is closed by its opener."""

    def too_large(self) -> GDSRError:
        """The error for a body above the size limit."""
        return UploadTooLarge(limit=self.limit)


async def receive(
    request: Request,
    store: BlobStore,
    accept: Callable[[Upload], Accepted],
    *,
    limit: int,
    overhead: int = FORM_OVERHEAD_BYTES,
    sink: PictureSink | None = None,
) -> Accepted:
    """Return the result of `accept`, called in a thread with the picture or the output of `sink`.

    The file is deleted at the end unless kept in the store. `overhead`: bytes that a form may add.

    Raises:
        UploadTooLarge: more than `limit` bytes; the rest is not read.
        ImageMissing: there is no picture.
        RequestInvalid: the form is malformed, or has two pictures or an unknown file.
        DigestMismatch: the body differs from the digest that was sent with it.
        StorageFull: the store has no room.
        ClientDisconnect: the client has left.
    """
    kind, parameters = parse_options_header(request.headers.get("Content-Type"))
    is_form = kind == b"multipart/form-data"
    is_json = kind == b"application/json" and sink is None
    coding = request.headers.get("Content-Encoding", "identity")
    if (is_form or is_json) and coding.lower() != "identity":
        message = f"{coding} is not decoded; send the body as it is"
        raise RequestInvalid.of("header", "Content-Encoding", message)
    body_limit = limit + overhead if is_form else json_body.MAX_BYTES if is_json else limit
    sink = sink or PictureSink(min(limit, body_limit) if is_json else limit)
    if int(request.headers.get("Content-Length", 0)) > body_limit:
        raise sink.too_large()
    form = Form(parameters, sink) if is_form else JsonBody(sink) if is_json else None
    arriving = _Arriving(store, sink, form, promised_digests(request.headers))
    received = pending = 0
    chunks: list[bytes] = []
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > body_limit:
                raise sink.too_large()
            chunks.append(chunk)
            pending += len(chunk)
            if pending >= _PIECE_BYTES:
                await run_in_threadpool(arriving.take, chunks)
                pending, chunks = 0, []
        leaving = asyncio.ensure_future(_disconnected(request))
        try:
            return await run_in_threadpool(arriving.end, chunks, accept, leaving.done)
        finally:
            leaving.cancel()
    except BaseException:
        await run_in_threadpool(arriving.opened.close)
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


class _Arriving:
    """Writes a body to the disk, one thread at a time. A thread switch costs as much as the work on
    a small picture, so one thread does all the remaining work at the end.
    """

    def __init__(
        self,
        store: BlobStore,
        sink: PictureSink,
        form: Form | JsonBody | None,
        promised: Mapping[str, bytes],
    ) -> None:
        self._store, self._sink, self._form, self._promised = store, sink, form, promised
        self._digest = hashlib.sha256() if promised else None
        self._file: BinaryIO | None = None
        self.opened = ExitStack()

    def take(self, chunks: Sequence[bytes]) -> BinaryIO:
        if self._file is None:
            self._file = self.opened.enter_context(self._store.incoming())
            self.opened.callback(self._sink.close)
            self._sink.open(self._file)
        for chunk in chunks:
            if self._digest is not None:
                self._digest.update(chunk)
            (self._form or self._sink).write(chunk)
        return self._file

    def end(
        self,
        chunks: Sequence[bytes],
        accept: Callable[[Upload], Accepted],
        client_left: Callable[[], bool],
    ) -> Accepted:
        with self.opened:
            file = self.take(chunks)
            fields = () if self._form is None else self._form.end()
            if self._digest is not None:
                check_digests(self._promised, sha256=self._digest.hexdigest())
            sink = self._sink
            try:
                size = sink.end()
            except ImageMissing:
                wrong = [
                    Fault(place="form", name=name, message=NOT_FETCHED)
                    for name, value in fields
                    if is_url(value)
                ]
                if wrong:
                    raise RequestInvalid(wrong) from None
                raise
            return accept(
                Upload(
                    file=file,
                    size=size,
                    sha256=sink.sha256,
                    fields=fields,
                    file_name=sink.file_name,
                    client_left=client_left,
                )
            )
