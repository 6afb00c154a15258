"""Reads format, size, depth, transparency and number of frames from a picture's header.

The service decides by the header alone whether an upload can become a job; the decoder reads the
same header again before it passes the bytes to a codec. Nothing is decoded, the format is detected
from the contents (never a name or a content type), and only the standard library is needed.

Input is untrusted: every loop is bounded, no read is larger than 1 MiB, and only `GDSRError` is
ever raised.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import BinaryIO

from workers.contract.errors import ImageCorrupt, ImageMissing
from workers.contract.images.formats import (
    RAW,
    ColourKind,
    ImageFormat,
    ImageHeader,
    unsupported,
)
from workers.contract.images.gif import gif_header
from workers.contract.images.jxl import JXL_BARE, JXL_BOXES, jxl_header
from workers.contract.images.tiff_and_avif import TOO_SHORT, Source, heif_header, tiff_header


def read_header(file: BinaryIO, *, frame: int | None = None) -> ImageHeader:
    """Read a picture's header from a seekable file, from its start; the position changes.

    `frame` is the chosen one (from 0): pages of a TIFF have separate headers.

    Raises:
        ImageMissing: the file is empty.
        ImageUnsupported: not one of `ImageFormat`, or an unsupported kind of it.
        ImageCorrupt: the header is truncated or inconsistent.
        FrameMissing: a TIFF has no such page.
    """
    source = Source(file)
    if not source.size:
        raise ImageMissing("the file is empty")
    try:
        header = _parser(source.at(0, min(source.size, 256)), frame or 0)(source)
    except struct.error:
        raise ImageCorrupt(TOO_SHORT) from None
    if not header.pixels:
        raise ImageCorrupt(f"its header says {header.width} x {header.height} pixels")
    return header


#: Markers or chunks to read before a header counts as malicious.
_MAX_STEPS = 4096

_UNSUPPORTED: Mapping[bytes, str] = {
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"8BPS": "a Photoshop document",
    b"II\xbc\x01": "a JPEG XR picture",
    b"\0\0\1\0": "an icon",
    b"qoif": "a QOI picture",
    b"gimp xcf": "a GIMP document",
    b"FUJIFILMCCD-RAW": RAW,
    b"IIU\0": RAW,  # Panasonic, Leica
    b"IIRO": RAW,  # Olympus
    b"IIRS": RAW,
    b"MMOR": RAW,
    b"\x76\x2f\x31\x01": "an OpenEXR picture",
    b"PK\3\4": "a ZIP archive",
    b"<svg": "an SVG drawing",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
}


def _parser(head: bytes, frame: int) -> Callable[[Source], ImageHeader]:
    """The parser of the format that begins with `head`."""
    if head.startswith(b"\xff\xd8"):
        return _jpeg
    if head.startswith(b"\x89PNG"):
        return _png
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return partial(tiff_header, frame=frame)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return partial(gif_header, frame=frame)
    if head.startswith(b"BM"):
        return _bmp
    if head[4:8] == b"ftyp":
        return heif_header
    if head.startswith((JXL_BARE, JXL_BOXES)):
        return jxl_header
    raise unsupported(_unsupported_format(head))


def _unsupported_format(head: bytes) -> str:
    """Name an unsupported format, as far as its first bytes identify it."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name in _UNSUPPORTED.items():
        if head.startswith(start) or text.startswith(start):
            return name
    if text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"svg" in text:
        return "an SVG drawing"
    return "not a picture of a known format"


_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # these three are tables
_JPEG_FRAMES_READ = {0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA}  # the rest are hierarchical, or rare
_JPEG_LS_FRAME = 0xF7
_JPEG_KINDS = {1: ColourKind.GREY, 3: ColourKind.COLOUR, 4: ColourKind.CMYK}


def _jpeg(source: Source) -> ImageHeader:
    offset = 2
    for _ in range(_MAX_STEPS):
        prefix, marker = source.at(offset, 2)
        if prefix != 0xFF or marker in (0x00, 0xFF):
            offset += 1  # fill bytes, or garbage between segments, which every decoder skips
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            offset += 2  # markers without a length
        elif marker in (0xD9, 0xDA):
            raise ImageCorrupt("its pixels come before its size")
        elif marker == _JPEG_LS_FRAME:
            raise unsupported("a JPEG-LS picture")
        elif marker in _JPEG_FRAMES:
            return _jpeg_frame(source, offset, marker)
        else:
            (length,) = struct.unpack(">H", source.at(offset + 2, 2))
            offset += 2 + max(length, 2)
    raise ImageCorrupt(f"its size is not among its first {_MAX_STEPS:,} markers")


def _jpeg_frame(source: Source, offset: int, marker: int) -> ImageHeader:
    bits, height, width, channels = struct.unpack(">BHHB", source.at(offset + 4, 6))
    if marker not in _JPEG_FRAMES_READ:
        raise unsupported("a hierarchical JPEG, or a lossless one of arithmetic codes")
    if bits != 8:
        raise unsupported(f"a JPEG of {bits} bits a channel")
    if channels not in _JPEG_KINDS:
        raise unsupported(f"a JPEG of {channels} channels")
    return ImageHeader(
        format=ImageFormat.JPEG,
        width=width,
        height=height,
        kind=_JPEG_KINDS[channels],
    )


#: Kind, possible depths, and whether there is alpha, by colour type.
_PNG_KINDS: dict[int, tuple[ColourKind, tuple[int, ...], bool]] = {
    0: (ColourKind.GREY, (1, 2, 4, 8, 16), False),
    2: (ColourKind.COLOUR, (8, 16), False),
    3: (ColourKind.PALETTE, (1, 2, 4, 8), False),
    4: (ColourKind.GREY, (8, 16), True),
    6: (ColourKind.COLOUR, (8, 16), True),
}


def _png(source: Source) -> ImageHeader:
    start = source.at(0, 33)  # the signature and IHDR
    if start[12:16] == b"CgBI":
        raise unsupported("a PNG of an iOS app (CgBI)")
    if not start.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        raise ImageCorrupt("its signature or first chunk is damaged")
    width, height, bits, colour_type = struct.unpack_from(">IIBB", start, 16)
    kind, depths, has_alpha = _PNG_KINDS.get(colour_type, (ColourKind.GREY, (), False))
    if bits not in depths:
        raise ImageCorrupt(f"PNG has no colour type {colour_type} of {bits} bits")
    frames, cicp = 1, None
    offset = len(start)
    for _ in range(_MAX_STEPS):
        length, name = struct.unpack(">I4s", source.at(offset, 8))
        if name == b"IDAT":
            return ImageHeader(
                format=ImageFormat.PNG,
                width=width,
                height=height,
                bits=8 if kind is ColourKind.PALETTE else bits,
                kind=kind,
                has_alpha=has_alpha,
                frames=max(frames, 1),
                cicp=cicp,
            )
        if name == b"IEND":
            raise ImageCorrupt("it has no pixels")
        if name == b"acTL":
            (frames,) = struct.unpack(">I", source.at(offset + 8, 4))
        elif name == b"tRNS":
            has_alpha = True
        elif name == b"cICP" and length == 4:
            cicp = _png_cicp(source.at(offset + 4, 12))
        offset += 12 + length
    raise ImageCorrupt(f"its pixels are not among its first {_MAX_STEPS:,} chunks")


def _png_cicp(chunk: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of a cICP chunk (type, body, checksum); None: damaged or YCbCr."""
    primaries, transfer, matrix, full_range, checksum = struct.unpack_from(">4BI", chunk, 4)
    if checksum != zlib.crc32(chunk[:8]) or matrix:
        return None
    if not full_range:
        raise unsupported("a PNG of the narrow range of video")
    return primaries, transfer


def _webp(source: Source) -> ImageHeader:
    chunk, _, body = struct.unpack("<4sI10s", source.at(12, 18))
    has_alpha = False
    frames: int | None = 1
    if chunk == b"VP8X":
        width = int.from_bytes(body[4:7], "little") + 1
        height = int.from_bytes(body[7:10], "little") + 1
        has_alpha = bool(body[0] & 0x10)
        frames = _webp_frames(source) if body[0] & 0x02 else 1
    elif chunk == b"VP8L" and body[0] == 0x2F:
        (packed,) = struct.unpack_from("<I", body, 1)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        has_alpha = bool(packed >> 28 & 1)
    elif chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    else:
        raise ImageCorrupt("its first chunk is not a WebP header")
    return ImageHeader(
        format=ImageFormat.WEBP,
        width=width,
        height=height,
        has_alpha=has_alpha,
        frames=frames,
    )


def _webp_frames(source: Source) -> int | None:
    """Number of frames of an animation, unless it has too many chunks."""
    frames, offset = 0, 12
    for _ in range(_MAX_STEPS):
        if offset + 8 > source.size:
            return frames
        name, length = struct.unpack("<4sI", source.at(offset, 8))
        frames += name == b"ANMF"
        offset += 8 + length + length % 2
    return None


_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
_BMP_RUNS, _BMP_BITFIELDS, _BMP_ALPHA_BITFIELDS = (1, 2), 3, 6


def _bmp(source: Source) -> ImageHeader:
    (size,) = struct.unpack("<I", source.at(14, 4))
    if size not in _BMP_HEADER_SIZES:
        raise unsupported("not a picture of a known format, or an unsupported kind of BMP")
    compression = 0
    if size == 12:
        width, height, _, bits = struct.unpack("<4H", source.at(18, 8))
    else:
        width, height, _, bits, compression = struct.unpack("<iiHHI", source.at(18, 16))
    fields = compression in (_BMP_BITFIELDS, _BMP_ALPHA_BITFIELDS)
    depths = (16, 32) if fields else (1, 4, 8, 16, 24, 32)
    if not (compression in (0, *_BMP_RUNS) or fields) or bits not in depths:
        raise unsupported("a BMP of a rare kind")
    has_alpha = compression in _BMP_RUNS  # skipped pixels are transparent
    if fields and (size >= 56 or compression == _BMP_ALPHA_BITFIELDS):
        (alpha,) = struct.unpack("<I", source.at(66, 4))
        has_alpha = bool(alpha)
    return ImageHeader(
        format=ImageFormat.BMP,
        width=max(width, 0),
        height=abs(height),  # negative: the rows are stored top-down
        kind=ColourKind.PALETTE if bits <= 8 else ColourKind.COLOUR,
        has_alpha=has_alpha,
    )
