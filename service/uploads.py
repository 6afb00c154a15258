"""An upload, streamed to the blob store's incoming folder as it arrives.

One pass and one copy: each chunk is parsed, hashed and written before the next one is asked for,
so that an upload of any size takes the memory of a chunk. Disk and hash work runs in a thread.
The bytes are told apart from a form by the content type alone; what they are is not judged here.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from python_multipart.multipart import parse_options_header

from service.digests import check_digests, promised_digests
from service.forms import Form
from workers.contract.blobs import BlobStore, no_room_is_storage_full
from workers.contract.errors import ImageMissing, UploadTooLarge

#: What a form may add to its picture: boundaries, part headers and the other fields.
FORM_OVERHEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A picture that has arrived whole, and the form fields beside it."""

    file: BinaryIO
    size: int
    sha256: str
    fields: tuple[tuple[str, str], ...]
    file_name: str
    """As the form has it; it may be anything."""


@asynccontextmanager
async def receive(request: Request, store: BlobStore, *, limit: int) -> AsyncIterator[Upload]:
    """Receive the picture; the file is gone at the end unless it was kept in the store.

    Raises:
        UploadTooLarge: more than `limit` bytes; no more than that is read.
        ImageMissing: there are none.
        RequestInvalid: the form is malformed, or has two pictures or an unknown file.
        DigestMismatch: the body is not the one that its digest promised.
        StorageFull: the store has no room.
    """
    kind, parameters = parse_options_header(request.headers.get("Content-Type"))
    is_form = kind == b"multipart/form-data"
    body_limit = limit + FORM_OVERHEAD_BYTES if is_form else limit
    if int(request.headers.get("Content-Length", 0)) > body_limit:
        raise UploadTooLarge(limit=limit)
    promised = promised_digests(request.headers)
    async with contextmanager_in_threadpool(store.incoming()) as file:
        picture = _Picture(file, limit)
        form = Form(parameters, picture.write) if is_form else None
        body: _Sink = picture if form is None else form
        whole = _Hashed(form) if form is not None and promised else None
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > body_limit:
                raise UploadTooLarge(limit=limit)
            await run_in_threadpool((whole or body).write, chunk)
        fields = body.end()
        check_digests(promised, sha256=(whole or picture).digest.hexdigest())
        if not picture.size:
            raise ImageMissing
        yield Upload(
            file=file,
            size=picture.size,
            sha256=picture.digest.hexdigest(),
            fields=fields,
            file_name="" if form is None else form.file_name,
        )


class _Sink(Protocol):
    """Where the chunks of a body go: straight into the picture, or through a form."""

    def write(self, chunk: bytes) -> None: ...

    def end(self) -> tuple[tuple[str, str], ...]: ...


class _Hashed:
    """A form whose every byte was promised to have a digest."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.form.write(chunk)


class _Picture:
    """The picture's own bytes, on their way to the disk."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file = file
        self.limit = limit
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self.limit:
            raise UploadTooLarge(limit=self.limit)
        self.digest.update(chunk)
        with no_room_is_storage_full():
            self.file.write(chunk)

    def end(self) -> tuple[tuple[str, str], ...]:
        return ()
