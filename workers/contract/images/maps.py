"""Maps of the slider: 8-bit grey PNG files, checked by the header like any upload."""

from typing import BinaryIO

from workers.contract.errors import ImageCorrupt, MapInvalid, MapTooLarge
from workers.contract.images.formats import ColourKind, ImageHeader
from workers.contract.images.headers import read_header

MAX_MAP_PIXELS = 2**22
MAX_MAP_BYTES = 2 * MAX_MAP_PIXELS
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def check_map(file: BinaryIO, *, width: int, height: int) -> None:
    """Check the header of a map for a result of `width` x `height` pixels; the position changes.

    Raises:
        MapInvalid: it is not an 8-bit grey PNG, is larger than the result, or its proportions
            differ by more than a pixel.
        MapTooLarge: it has too many pixels.
    """
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        raise MapInvalid("is not a PNG")
    try:
        header = read_header(file)
    except ImageCorrupt:
        raise MapInvalid("is damaged") from None
    if wrong := _wrong_kind(header):
        raise MapInvalid(wrong)
    if header.pixels > MAX_MAP_PIXELS:
        raise MapTooLarge(limit=MAX_MAP_PIXELS, of="pixels")
    off = abs(header.width * height - header.height * width)
    if header.width > width or header.height > height or off > max(width, height):
        size = f"{header.width} x {header.height}"
        raise MapInvalid(f"has {size} pixels, and the result {width} x {height}")


def _wrong_kind(header: ImageHeader) -> str:
    if header.kind is not ColourKind.GREY:
        return "has colours" if header.kind is ColourKind.COLOUR else "has a palette"
    if header.bits != 8:
        return f"has {header.bits} bits per sample"
    if header.has_alpha:
        return "has transparency"
    return "" if header.frames == 1 else "is animated"
