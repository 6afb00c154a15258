"""Pictures to upload: files or bytes, sent in pieces."""

import os
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeAlias

from anyio import open_file, wrap_file

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
