"""EXIF: directories of tags, in the form of TIFF (revision 6.0).

Values are copied as they are stored: Pillow writes letters beyond ASCII as question marks, and
forgets the types of tags.
"""

import struct
from contextlib import suppress
from fractions import Fraction
from typing import NamedTuple

#: Tags that point to the directories of Exif and GPS, and from Exif to that of interoperability.
EXIF, GPS, INTEROP = 0x8769, 0x8825, 0xA005
#: Bytes of a value, by its type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 18: 8}
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_MAX_TAGS, _MAX_VALUE_BYTES = 256, 65_000
_MAX_DENOMINATOR = 10_000


class Tag(NamedTuple):
    """The type of a tag, and its values as stored."""

    kind: int
    data: bytes


class Exif(NamedTuple):
    """The tags of EXIF data or of a page of a TIFF, by number."""

    #: Byte order of `struct`, "<" or ">".
    order: str
    tags: dict[int, Tag]
    #: The other directories, by the tags that point to them.
    parts: dict[int, dict[int, Tag]]

    def shorts(self, *values: int) -> Tag:
        return Tag(_SHORT, struct.pack(f"{self.order}{len(values)}H", *values))

    def longs(self, *values: int) -> Tag:
        return Tag(_LONG, struct.pack(f"{self.order}{len(values)}I", *values))

    def rational(self, value: float) -> Tag:
        ratio = Fraction(value).limit_denominator(_MAX_DENOMINATOR).as_integer_ratio()
        return Tag(_RATIONAL, struct.pack(self.order + "2I", *ratio))


def read_exif(data: bytes | None, page: int | None = None) -> Exif:
    """Read EXIF data, or the page of a TIFF at an offset; values that are not there are left out.

    Raises:
        struct.error: there is data, but no directory in it.
    """
    if not data:
        return Exif("<", {}, {})
    order = "<" if data[:2] == b"II" else ">"
    is_big = b"+" in data[2:4]
    if page is None:
        (page,) = struct.unpack_from(order + "I", data, 4)
    tags = _read_directory(data, page, order, is_big=is_big)
    parts: dict[int, dict[int, Tag]] = {}
    for number in (EXIF, GPS, INTEROP):
        owner = parts.get(EXIF, {}) if number == INTEROP else tags
        if pointer := owner.pop(number, None):
            place = int.from_bytes(pointer.data, "little" if order == "<" else "big")
            with suppress(struct.error):
                parts[number] = _read_directory(data, place, order, is_big=is_big)
    return Exif(order, tags, parts)


def _read_directory(data: bytes, offset: int, order: str, *, is_big: bool) -> dict[int, Tag]:
    number_of, entry, place = (
        struct.Struct(order + code) for code in (("Q", "HHQ", "Q") if is_big else ("H", "HHI", "I"))
    )
    (count,) = number_of.unpack_from(data, offset)
    at = offset + number_of.size
    tags = {}
    for _ in range(min(count, _MAX_TAGS)):
        if at + entry.size + place.size > len(data):
            break
        number, kind, length = entry.unpack_from(data, at)
        start, size = at + entry.size, length * _SIZES.get(kind, 0)
        at = start + place.size
        if size > place.size:
            (start,) = place.unpack_from(data, start)
        if 0 < size <= _MAX_VALUE_BYTES and start + size <= len(data):
            tags[number] = Tag(kind, data[start : start + size])
    return tags


def exif_bytes(exif: Exif) -> bytes:
    """EXIF data, or the start of a TIFF: its header, and the directories at once after it."""
    start = b"II*\0" if exif.order == "<" else b"MM\0*"
    return start + struct.pack(exif.order + "I", 8) + _directory(exif, 8)


def _directory(exif: Exif, offset: int) -> bytes:
    order, tags, parts = exif
    after = offset + 2 + 12 * len({*tags, *parts}) + 4
    entries = beyond = b""
    for number in sorted({*tags, *parts}):
        place = struct.pack(order + "I", after + len(beyond))
        if number in parts:
            kind, count, field = _LONG, 1, place
            beyond += _directory(Exif(order, parts[number], {}), after + len(beyond))
        else:
            kind, data = tags[number]
            count, field = len(data) // _SIZES[kind], data.ljust(4, b"\0")
            if len(data) > len(place):
                field = place
                beyond += data + b"\0" * (len(data) % 2)
        entries += struct.pack(order + "HHI", number, kind, count) + field
    return struct.pack(order + "H", len(entries) // 12) + entries + bytes(4) + beyond
