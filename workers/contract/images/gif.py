"""GIF (version 89a): its size and the location of its frames.

A GIF does not store its number of frames: the blocks have to be walked. The walk is bounded, so
that a file of tiny blocks costs no more than any other.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from workers.contract.errors import ImageCorrupt
from workers.contract.images.formats import ColourKind, ImageFormat, ImageHeader
from workers.contract.images.tiff_and_avif import Source

#: Maximum number of frames to count, and of other blocks between them.
MAX_FRAMES = 4096
_MAX_BLOCKS = 4 * MAX_FRAMES
#: Maximum number of sub-blocks (of at most 255 bytes) in total.
_MAX_SUB_BLOCKS = 2**20
_WINDOW_BYTES = 2**14

KEEP, CLEAR, RESTORE = 1, 2, 3


class GifFrame(NamedTuple):
    """One frame: its position in the picture and its location in the file."""

    left: int
    top: int
    width: int
    height: int
    interlaced: bool
    #: Disposal method: KEEP, CLEAR or RESTORE.
    disposal: int
    #: Index of the transparent colour.
    clear: int | None
    #: Local colour table, start and end; empty if the global one is used.
    palette: tuple[int, int]
    #: Image data, from the minimum code size to the end of the last sub-block.
    data: tuple[int, int]

    def covers(self, width: int, height: int) -> bool:
        """True if it hides all earlier frames."""
        whole = not self.left and not self.top and self.width >= width and self.height >= height
        return whole and self.clear is None


def colours_end(source: Source) -> int:
    """Offset of the end of the global colour table (13: there is none)."""
    return 13 + _palette_bytes(source.at(10, 1)[0])


def gif_header(source: Source, *, frame: int) -> ImageHeader:
    """Read a GIF's header; transparency is that of the given frame."""
    frames = list(islice(gif_frames(source), MAX_FRAMES + 1))
    if not frames:
        raise ImageCorrupt("it has no pixels")
    width, height = struct.unpack("<6xHH", source.at(0, 10))
    # As in browsers, the screen grows to hold the first frame.
    width = max(width, frames[0].left + frames[0].width)
    height = max(height, frames[0].top + frames[0].height)
    return ImageHeader(
        format=ImageFormat.GIF,
        width=width,
        height=height,
        kind=ColourKind.PALETTE,
        has_alpha=not is_opaque(frames[: frame + 1], width, height),
        frames=len(frames) if len(frames) <= MAX_FRAMES else None,
    )


def is_opaque(frames: Sequence[GifFrame], width: int, height: int) -> bool:
    """True if the picture is certainly opaque after the last of these frames."""
    opaque = False
    for number, frame in enumerate(frames):
        before, opaque = opaque, opaque or frame.covers(width, height)
        if number + 1 < len(frames) and frame.disposal != KEEP:
            opaque = before if frame.disposal == RESTORE else False
    return opaque


def gif_frames(source: Source) -> Iterator[GifFrame]:
    """The frames of a GIF, in order.

    Raises:
        ImageCorrupt: the file ends within a frame, a frame has no pixels, or there are more blocks
            than any picture needs.
    """
    offset = colours_end(source)
    budget = iter(range(_MAX_SUB_BLOCKS))
    disposal, clear = KEEP, None
    is_first = True
    for _ in range(_MAX_BLOCKS):
        kind = source.at(offset, 1) if offset < source.size else b";"
        if kind == b"!":
            if source.at(offset + 1, 2) == b"\xf9\4":
                flags, number = struct.unpack("<BxxB", source.at(offset + 3, 4))
                disposal = {2: CLEAR, 3: RESTORE}.get(flags >> 2 & 7, KEEP)
                clear = number if flags & 1 else None
            offset = _after_sub_blocks(source, offset + 2, budget)
        elif kind == b",":
            left, top, across, down, flags = struct.unpack("<4HB", source.at(offset + 1, 9))
            if not across or not down:
                raise ImageCorrupt("one of its frames has no pixels")
            start = offset + 10 + _palette_bytes(flags)
            offset = _after_sub_blocks(source, start + 1, budget)
            if is_first and offset == source.size <= start + 2:
                raise ImageCorrupt("it ends before its first row")
            is_first = False
            yield GifFrame(
                left=left,
                top=top,
                width=across,
                height=down,
                interlaced=bool(flags & 0x40),
                disposal=disposal,
                clear=clear,
                palette=(start - _palette_bytes(flags), start),
                data=(start, offset),
            )
            disposal, clear = KEEP, None
        else:
            return  # the trailer, or an unknown block, which viewers ignore
    raise ImageCorrupt(f"it has more than {_MAX_BLOCKS:,} blocks")


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(source: Source, offset: int, budget: Iterator[int]) -> int:
    """The end of a chain of sub-blocks; each starts with its length, and 0 ends the chain."""
    while offset < source.size:
        window = source.at(offset, min(_WINDOW_BYTES, source.size - offset))
        at = 0
        while at < len(window):
            if next(budget, None) is None:
                raise ImageCorrupt(f"it has more than {_MAX_SUB_BLOCKS:,} sub-blocks")
            if not window[at]:
                return offset + at + 1
            at += 1 + window[at]
        offset += at
    return source.size  # truncated: the decoder reports it
