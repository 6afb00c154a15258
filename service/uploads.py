"""An upload, streamed to the blob store's incoming folder as it arrives.

One pass and one copy: pieces are parsed, hashed and written before more is asked for, so that an
upload of any size takes the memory of a piece. Disk and hash work runs in a thread, by pieces.
The bytes are told apart from a form by the content type alone; what they are is not judged here.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from python_multipart.multipart import parse_options_header

from service.digests import check_digests, promised_digests
from service.forms import IMAGE_FIELD, Files, Form, fault
from service.problems import RequestInvalid
from workers.contract.blobs import BlobStore, no_room_is_storage_full
from workers.contract.errors import GDSRError, ImageMissing, UploadTooLarge

#: What a form may add to its files: boundaries, part headers and the other fields.
FORM_OVERHEAD_BYTES = 64 * 1024
#: What comes is handed to a thread when there is so much of it: most pictures are one piece.
_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that has arrived whole, and the form fields beside it."""

    file: BinaryIO
    size: int
    sha256: str
    fields: tuple[tuple[str, str], ...]
    file_name: str
    """As the form has it; it may be anything."""


class Sink(Files, Protocol):
    """What is made of the bytes that come, in one file."""

    sha256: str
    """Of all that was written; there after `end`."""
    file_name: str

    def end(self) -> int:
        """Make the file whole; its size.

        Raises:
            GDSRError: there is nothing in it.
        """
        ...

    def close(self) -> None:
        """Let go of the file, whole or not."""
        ...

    def too_large(self) -> GDSRError:
        """What to say of a body that is larger than any may be."""
        ...


@asynccontextmanager
async def receive(
    request: Request,
    store: BlobStore,
    *,
    limit: int,
    overhead: int = FORM_OVERHEAD_BYTES,
    sink: "Callable[[BinaryIO, int], Sink] | None" = None,
) -> AsyncIterator[Upload]:
    """Receive a picture, or what `sink` makes of the body; the file is gone at the end unless it
    was kept in the store. `overhead` is what a form may add.

    Raises:
        UploadTooLarge: more than `limit` bytes; no more than that is read.
        ImageMissing: there are none.
        RequestInvalid: the form is malformed, or has two pictures or an unknown file.
        DigestMismatch: the body is not the one that its digest promised.
        StorageFull: the store has no room.
    """
    kind, parameters = parse_options_header(request.headers.get("Content-Type"))
    is_form = kind == b"multipart/form-data"
    body_limit = limit + overhead if is_form else limit
    promised = promised_digests(request.headers)
    async with contextmanager_in_threadpool(store.incoming()) as file:
        with closing((sink or _Picture)(file, limit)) as files:
            if int(request.headers.get("Content-Length", 0)) > body_limit:
                raise files.too_large()
            form = Form(parameters, files) if is_form else None
            digest = hashlib.sha256() if promised else None
            received = pending = 0
            chunks: list[bytes] = []

            def take(chunks: Sequence[bytes]) -> None:
                for chunk in chunks:
                    if digest is not None:
                        digest.update(chunk)
                    (form or files).write(chunk)

            def end(chunks: Sequence[bytes]) -> tuple[tuple[tuple[str, str], ...], int]:
                take(chunks)
                fields = () if form is None else form.end()
                if digest is not None:
                    check_digests(promised, sha256=digest.hexdigest())
                return fields, files.end()

            async for chunk in request.stream():
                received += len(chunk)
                if received > body_limit:
                    raise files.too_large()
                chunks.append(chunk)
                pending += len(chunk)
                if pending >= _PIECE_BYTES:
                    await run_in_threadpool(take, chunks)
                    pending, chunks = 0, []
            fields, size = await run_in_threadpool(end, chunks)
        yield Upload(
            file=file, size=size, sha256=files.sha256, fields=fields, file_name=files.file_name
        )


class _Picture:
    """The picture's own bytes, on their way to the disk."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file = file
        self.limit = limit
        self.size = 0
        self.digest = hashlib.sha256()
        self.named = False
        self.file_name = self.sha256 = ""

    def begin(self, field: str, file_name: str) -> bool:
        if field != IMAGE_FIELD:
            return False
        if self.named:
            raise RequestInvalid([fault(IMAGE_FIELD, "given twice; send one picture")])
        self.named, self.file_name = True, file_name
        return True

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self.limit:
            raise self.too_large()
        self.digest.update(chunk)
        with no_room_is_storage_full():
            self.file.write(chunk)

    def end(self) -> int:
        self.sha256 = self.digest.hexdigest()
        if not self.size:
            raise ImageMissing
        return self.size

    def close(self) -> None:
        """The file is closed by whoever opened it."""

    def too_large(self) -> GDSRError:
        return UploadTooLarge(limit=self.limit)
