"""JPEG XL header (ISO/IEC 18181-1, annex D).

Fields are bits, lowest first. The code stream may be bare or in boxes (18181-2).
"""

from typing import BinaryIO, NamedTuple

from workers.contract.errors import ImageCorrupt
from workers.contract.images.formats import ColourKind, ImageFormat, ImageHeader, unsupported
from workers.contract.images.tiff_and_avif import MAX_READ_BYTES, TOO_SHORT, Source, file_boxes

JXL_BOXES = b"\0\0\0\x0cJXL \r\n\x87\n"
JXL_BARE = b"\xff\x0a"
#: Start of EXIF in a box: the number of bytes before its header (ISO/IEC 18181-2).
JXL_EXIF_OFFSET = bytes(4)
_HEADER_BYTES = 4096  # enough for long channel names
_MAX_BOXES = 256
_GREY, _ALPHA, _SPOT, _BLACK, _CFA = 1, 0, 2, 4, 5

#: Aspect ratios, by number.
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


class _Field(NamedTuple):
    """A field value: offset and number of extra bits."""

    offset: int
    bits: int = 0


def jxl_header(source: Source) -> ImageHeader:
    """Read a JPEG XL's header."""
    start = _stream(source)
    read = _Bits(source.at(start, min(_HEADER_BYTES, source.size - start)))
    if read.bits(16) != 0x0AFF:
        raise ImageCorrupt("its code stream has a wrong signature")
    width, height = _size(read)
    bits, grey, alpha = 8, False, False
    if not read.flag():  # all defaults
        if read.flag():
            read.bits(3)  # the orientation, which the decoder applies
            if read.flag():
                _size(read)  # intrinsic size, for display only
            if read.flag():
                _preview(read)
            if read.flag():
                raise unsupported("an animated JPEG XL picture")
        bits = _depth(read)
        read.flag()  # 16-bit buffers are enough
        for _ in range(read.number(_Field(0), _Field(1), _Field(2, 4), _Field(1, 12))):
            kind = _extra_channel(read)
            if kind == _BLACK:
                raise unsupported("a CMYK JPEG XL picture")
            alpha |= kind == _ALPHA
        read.flag()  # XYB
        if not read.flag():
            read.flag()  # a profile follows
            grey = _enumerated(read) == _GREY
    return ImageHeader(
        format=ImageFormat.JXL,
        width=width,
        height=height,
        bits=bits,
        kind=ColourKind.GREY if grey else ColourKind.COLOUR,
        has_alpha=alpha,
    )


def _stream(source: Source) -> int:
    """The offset of the code stream."""
    if source.at(0, 2) == JXL_BARE:
        return 0
    for name, start, _ in file_boxes(source, most=_MAX_BOXES):
        if name == b"jxlc":
            return start
        if name == b"jxlp":
            return start + 4  # after the index of the box
    raise ImageCorrupt(f"its code stream is not among its first {_MAX_BOXES} boxes")


def jxl_box(file: BinaryIO, wanted: bytes, *, of: bytes = b"") -> bytes | None:
    """The body of the first box of that name in a JPEG XL, if there is one: at most 1 MiB of it.

    With `of`, it begins with these bytes: a compressed box (`brob`) with the name of its contents.
    """
    source = Source(file)
    if source.at(0, 2) == JXL_BARE:
        return None
    for name, start, end in file_boxes(source, most=_MAX_BOXES):
        if name == wanted and source.at(start, len(of)) == of:
            return source.at(start, min(end - start, MAX_READ_BYTES))
    return None


class _Bits:
    """Reads numbers from bytes, lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")
        self.left = 8 * len(data)

    def bits(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise ImageCorrupt(TOO_SHORT)
        found = self.value & (1 << count) - 1
        self.value >>= count
        return found

    def flag(self) -> bool:
        return bool(self.bits(1))

    def number(self, *choices: _Field) -> int:
        """A number in one of four encodings, chosen by its first two bits (U32 in the standard)."""
        chosen = choices[self.bits(2)]
        return chosen.offset + self.bits(chosen.bits)


def _enumerated(read: _Bits) -> int:
    return read.number(_Field(0), _Field(1), _Field(2, 4), _Field(18, 6))


def _size(read: _Bits) -> tuple[int, int]:
    small = read.flag()

    def side() -> int:
        if small:
            return 8 * (1 + read.bits(5))
        return read.number(_Field(1, 9), _Field(1, 13), _Field(1, 18), _Field(1, 30))

    height = side()
    ratio = read.bits(3)
    if ratio not in _RATIOS:
        return side(), height
    across, down = _RATIOS[ratio]
    return height * across // down, height


def _preview(read: _Bits) -> None:
    small = read.flag()
    if small:
        choices = _Field(16), _Field(32), _Field(1, 5), _Field(33, 9)
    else:
        choices = _Field(1, 6), _Field(65, 8), _Field(321, 10), _Field(1345, 12)
    read.number(*choices)
    if not read.bits(3):
        read.number(*choices)


def _depth(read: _Bits) -> int:
    if read.flag():
        raise unsupported("a JPEG XL picture of floating-point samples")
    return read.number(_Field(8), _Field(10), _Field(12), _Field(1, 6))


def _extra_channel(read: _Bits) -> int:
    """The meaning of an extra channel."""
    if read.flag():
        return _ALPHA
    kind = _enumerated(read)
    _depth(read)
    read.number(_Field(0), _Field(3), _Field(4), _Field(1, 3))
    read.bits(8 * read.number(_Field(0), _Field(0, 4), _Field(16, 5), _Field(48, 10)))
    if kind == _ALPHA:
        read.flag()  # premultiplied
    elif kind == _SPOT:
        read.bits(64)
    elif kind == _CFA:
        read.number(_Field(1), _Field(0, 2), _Field(3, 4), _Field(19, 8))
    return kind
