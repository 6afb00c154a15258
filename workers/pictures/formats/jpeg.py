"""Finds out whether a JPEG has all of its pixels, and repairs one that lacks only its end marker.

A decoder fills in missing data without an error. So the file is decoded with other fillings before
its end: if the pixels are equal for all of them, none is missing.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from itertools import product

from PIL import Image

from workers.contract.errors import ImageCorrupt

_END = b"\xff\xd9"
#: Fillings of both bit values, and with every restart marker that a decoder may look for.
_FILLS = (
    b"",
    bytes(4096),
    b"\x55" * 4096,
    b"\xfe" * 4096,
    b"".join(b"\xa5\x5a" * 64 + bytes((0xFF, 0xD0 + number % 8)) for number in range(256)),
)
_COEFFICIENTS = 64
_ARITHMETIC = {0xC9, 0xCA}


def with_end(data: bytes, decoded: Callable[[bytes], Image.Image]) -> bytes | None:
    """Return the JPEG with its end if only that is missing, else None; `decoded` decodes it."""
    data = data[:-1] if data.endswith(b"\xff") else data
    if not _has_all_scans(data):
        return None
    found = {hashlib.sha256(decoded(data + fill + _END).tobytes()).digest() for fill in _FILLS}
    return data + _END if len(found) == 1 else None


def lacks_data(data: bytes, image: Image.Image, decoded: Callable[[bytes], Image.Image]) -> bool:
    """True if a JPEG with an end lacks data before it; `image` is its decoded picture.

    Rows without data become grey, so only a picture with a corner of that grey is decoded again,
    and one in several scans, the last of which only add detail.
    """
    points = product((0, image.width - 1), (0, image.height - 1))
    corners = [image.crop((x, y, x + 1, y + 1)) for x, y in points]
    if "progressive" not in image.info and not any(map(_may_be_filling, corners)):
        return False
    places = {marker: at for marker, at, _, _ in _segments(data)}
    if _ARITHMETIC & places.keys():  # whose encoders leave out the last zeros
        return False
    data = data[: places.get(_END[1], len(data))] + _FILLS[-1] + _END
    return decoded(data).tobytes() != image.tobytes()


def _may_be_filling(pixel: Image.Image) -> bool:
    """True if a pixel is as bright as missing data; its colour may come from beside it."""
    level = pixel.getchannel("K") if pixel.mode == "CMYK" else pixel.convert("L")
    return 126 <= level.tobytes()[0] <= 129


def ended(data: bytes) -> bytes:
    """Return a truncated JPEG with an end; missing parts decode as grey, or with less detail.

    Raises:
        ImageCorrupt: there are no pixels.
    """
    scans = (at + 4 + length for marker, at, length, _ in _segments(data) if marker == 0xDA)
    if data[next(scans, len(data)) :][:2] in (b"", b"\xff", _END):
        raise ImageCorrupt("it ends before its first row")
    cut = (at for _, at, length, body in _segments(data) if len(body) != length)
    return data[: next(cut, len(data))] + _END


def _has_all_scans(data: bytes) -> bool:
    """True if each coefficient of each channel comes in full precision (ITU-T T.81, G.1.1)."""
    missing: dict[int, set[int]] = {}
    for marker, _, length, body in _segments(data):
        if len(body) != length or (marker == 0xDA and len(body) < 6):
            return False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            missing = {number: set(range(_COEFFICIENTS)) for number in body[6::3]}
        elif marker == 0xDA:
            channels = body[1 : 1 + 2 * body[0] : 2]
            first, last, precision = body[-3:]
            for channel in channels:
                wanted = missing.get(channel, set())
                if not precision & 15:
                    wanted -= set(range(first, last + 1))
    return bool(missing) and not any(missing.values())


def _segments(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield marker, offset, length and body of each segment, and last its end, if there is one; a
    truncated body is shorter.
    """
    at = 2
    while at >= 0 and at + 2 <= len(data):
        prefix, marker = data[at], data[at + 1]
        if (prefix, marker) == tuple(_END):
            yield marker, at, 0, b""
            return
        if prefix != 0xFF or marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD8:
            at = data.find(b"\xff", at + 1)
            continue
        if at + 4 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield marker, at, length - 2, data[at + 4 : at + 2 + length]
        at += 2 + length
