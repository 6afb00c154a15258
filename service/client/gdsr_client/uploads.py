"""Pictures to upload: files or bytes, sent in pieces."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from anyio import open_file

from gdsr_client.answers import readable

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
    size = size_of(source)
    done = 0
    async for piece in _of_bytes(source) if isinstance(source, bytes) else _of_file(source):
        yield piece
        done += len(piece)
        if on_upload:
            on_upload(Sent(done, size))


async def _of_bytes(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]


async def _of_file(path: str | os.PathLike[str]) -> AsyncIterator[bytes]:
    async with await open_file(path, "rb") as file:
        while piece := await file.read(_PIECE):
            yield piece
