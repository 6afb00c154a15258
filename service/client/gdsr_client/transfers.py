"""Uploads, sent in pieces, and downloads, stored in a file and checked."""

import hashlib
import os
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeAlias

import httpx2
from anyio import open_file, wrap_file

from gdsr_client.answers import DownloadBroken, readable

#: A picture: the path of a file, or its bytes.
Source: TypeAlias = str | os.PathLike[str] | bytes

#: Size of a piece, in bytes.
_PIECE = 256 * 1024


class Sent(NamedTuple):
    """Progress of an upload, in bytes."""

    done: int
    size: int

    def __str__(self) -> str:
        return f"sent {readable(self.done)} of {readable(self.size)}"


def size_of(source: Source) -> int:
    """Size in bytes.

    Raises:
        OSError: the file cannot be read.
    """
    return len(source) if isinstance(source, bytes) else Path(source).stat().st_size


async def pieces(source: Source, on_upload: Callable[[Sent], None] | None) -> AsyncIterator[bytes]:
    """The picture in pieces; `on_upload` is called after each.

    Raises:
        OSError: the file cannot be read.
    """
    size, done = size_of(source), 0
    if isinstance(source, bytes):
        opened = wrap_file(BytesIO(source))
    else:
        opened = await open_file(source, "rb")
    async with opened as file:
        while piece := await file.read(_PIECE):
            yield piece
            done += len(piece)
            if on_upload:
                on_upload(Sent(done, size))


async def store(answer: httpx2.Response, target: Path) -> None:
    """Write the download to a file, atomically.

    Raises:
        DownloadBroken: its digest is not the one that was promised.
        OSError: the file cannot be written.
    """
    promised = None  # the SHA-256 in base64 (RFC 9530), of this response or a redirect before it
    for one in (*reversed(answer.history), answer):
        algorithm, _, value = one.headers.get("Repr-Digest", "").partition("=")
        if algorithm == "sha-256":
            promised = value.strip(":")
    partial_file = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    digest = hashlib.sha256()
    try:
        async with await open_file(partial_file, "wb") as file:
            async for piece in answer.aiter_bytes():
                digest.update(piece)
                await file.write(piece)
        if promised is not None and b64encode(digest.digest()).decode() != promised:
            raise DownloadBroken(f"the download of {answer.url.path} is incomplete or corrupted")
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)
