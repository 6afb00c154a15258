"""PNG: a fast encoder, and the checks that Pillow omits.

The encoder uses one filter for all rows ('up': the difference to the row above) and compresses
with igzip: tens of times faster than libpng's defaults, for files that are hardly larger. Stripes
of rows are compressed independently: they need little memory beyond the file itself, and a machine
with many processors compresses several at once.
"""

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import NamedTuple, cast

import numpy as np
from isal import isal_zlib

from model.process import available_cpus
from workers.contract.errors import CUT_OFF, ImageCorrupt
from workers.pictures.metadata import METRES_PER_INCH
from workers.pictures.picture import Picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, LA, RGBA
_PALETTE = 3
_COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # by channels
_FILTER_UP = 2
_LEVEL = 1  # igzip's; 2 takes a tenth longer for files of the same size
#: Stripes are compressed independently, so that threads can share a picture; the file does not
#: depend on their number. A stripe stays in the CPU's cache between filter and compressor.
_STRIPE_BYTES = 2**19
_MAX_THREADS = 4
#: The rest is left to other workers that encode, and to the host's part of GPU work.
_PROCESSORS_PER_THREAD = 4
_ZLIB_HEADER = b"\x78\x01"  # deflate with a window of 32 KiB, the quickest level (RFC 1950)
_ADLER_BASE = 65521
PROFILE_START = b"profile\0\0"  # name, and compression method
XMP_START = b"XML:com.adobe.xmp\0\0\0\0\0"  # not compressed, no language tag
_MAX_XMP_BYTES = 2**20
#: As in libpng: Pillow's own limit of 1 MiB refuses pictures with the profile of some printers.
MAX_PROFILE_BYTES = 8_000_000


def encode_png(picture: Picture) -> bytes:
    """Write a picture as PNG of 8 or 16 bits: grey, RGB, each with or without alpha."""
    # BytesIO returns its buffer without a copy; joining a list would need twice the memory.
    file = BytesIO()
    file.writelines(png_pieces(picture))
    return file.getvalue()


def png_pieces(picture: Picture) -> Iterator[bytes]:
    """Yield the bytes of `encode_png` in pieces, so that the file need not be in memory."""
    colour_type = _COLOUR_TYPES[_channels(picture)]
    header = struct.pack(">IIBB3x", picture.width, picture.height, picture.bits, colour_type)
    yield SIGNATURE + chunk(b"IHDR", header)
    if picture.profile is None:
        yield chunk(b"sRGB", b"\0")
    else:
        yield chunk(b"iCCP", PROFILE_START + isal_zlib.compress(picture.profile))
    if picture.dpi:
        across, down = (round(dots / METRES_PER_INCH) for dots in picture.dpi)
        yield chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if picture.metadata.exif:
        yield chunk(b"eXIf", picture.metadata.exif)
    if picture.metadata.xmp:
        yield chunk(b"iTXt", XMP_START + picture.metadata.xmp)
    if picture.metadata.iptc:
        yield chunk(b"ipTc", picture.metadata.iptc)  # private, for stored branches
    for data in _compressed(picture):
        yield chunk(b"IDAT", data)
    yield chunk(b"IEND", b"")


#: Chunks that define a colour space in numbers, except cICP, which `ImageHeader` has.
COLOUR_CHUNKS = frozenset((b"sRGB", b"gAMA", b"cHRM"))
_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"pHYs", b"eXIf", b"IDAT", b"IEND"))
#: Without these there is no picture, or no frame of it.
_CRITICAL = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"fcTL", b"fdAT"))
_MAX_CHUNKS = 2**17
_INFLATED_BYTES = 2**18
INFLATE_ERROR = cast("type[Exception]", isal_zlib.error)  # its stub declares an instance


class CheckedPng(NamedTuple):
    """A PNG that has all of its pixels."""

    #: Without the chunks that neither pixels nor `metadata=keep` need.
    data: bytes
    #: Bodies of the chunks that define its colour space in numbers, by name.
    colour: dict[bytes, bytes]
    warnings: tuple[str, ...]


def checked_png(data: bytes, *, fill: bool = False) -> CheckedPng:
    """Check that a PNG has all of its pixels, and drop the chunks that they do not need.

    Pillow checks neither the checksums of pixel data nor whether rows are missing, and refuses
    pictures with long comments.

    As in browsers, an ancillary chunk is dropped if its checksum or its form is wrong, and chunks
    after the pixels may be missing. With `fill`, missing pixels are zeros.

    Raises:
        ImageCorrupt: the checksum of a critical chunk is wrong, or the pixels end too early.
    """
    view = memoryview(data)
    kept: list[bytes | memoryview] = [view[: len(SIGNATURE)]]
    pixels: list[memoryview] = []
    colour: dict[bytes, bytes] = {}
    warnings: list[str] = []
    name = b""
    for name, body, whole in chunks(view):
        if name not in _KEPT | COLOUR_CHUNKS and not is_xmp(name, body):
            continue
        if name not in _CRITICAL and not (is_whole(whole) and _is_formed(name, body, data[25])):
            warnings.append(f"dropped a damaged {name.decode()} chunk")
        elif name in COLOUR_CHUNKS:
            colour[name] = bytes(body)
        else:
            _check(name, whole)
            if not fill or name not in (b"IDAT", b"IEND"):
                kept.append(whole)
        if name == b"IDAT":
            pixels.append(body)
    if fill:
        filled = _filled(pixels, _filtered_bytes(data))
        kept += [chunk(b"IDAT", filled), chunk(b"IEND", b"")]
    else:
        _check_length(pixels, _filtered_bytes(data))
        if name != b"IEND":
            kept.append(chunk(b"IEND", b""))
    return CheckedPng(b"".join(kept), colour, tuple(warnings))


_ANIMATED = {b"acTL"} | _KEPT | COLOUR_CHUNKS | {b"cICP", b"fcTL", b"fdAT"}


def read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and body of the chunks that a PNG's pixels and frames need.

    Raises:
        ImageCorrupt: the checksum of a critical chunk is wrong.
    """
    for name, body, whole in chunks(memoryview(data)):
        if name in _ANIMATED and (name in _CRITICAL or is_whole(whole)):
            _check(name, whole)
            yield name, bytes(body)


def chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield name, body and full bytes of each chunk, up to IEND if present. Truncated pixel data
    makes a chunk of the bytes that are there; the caller checks whether they are enough.
    """
    offset = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if offset + 8 > len(view):
            return
        length, name = struct.unpack_from(">I4s", view, offset)
        end = offset + 12 + length
        if end > len(view):
            if name in (b"IDAT", b"fdAT"):
                body = view[offset + 8 : offset + 8 + length]
                yield name, body, memoryview(chunk(name, bytes(body)))
            return
        yield name, view[offset + 8 : end - 4], view[offset:end]
        if name == b"IEND":
            return
        offset = end
    raise ImageCorrupt(f"it has more than {_MAX_CHUNKS:,} chunks")


def is_xmp(name: bytes, body: memoryview) -> bool:
    """True if a chunk holds XMP of a usual size."""
    return name == b"iTXt" and len(body) <= _MAX_XMP_BYTES and body[: len(XMP_START)] == XMP_START


def is_whole(whole: memoryview) -> bool:
    """True if the checksum of a chunk is right."""
    (checksum,) = struct.unpack_from(">I", whole, len(whole) - 4)
    return bool(isal_zlib.crc32(whole[4:-4]) == checksum)


def _is_formed(name: bytes, body: memoryview, colour_type: int) -> bool:
    """True if an ancillary chunk has the form without which Pillow refuses the picture."""
    match name:
        case b"pHYs":
            return len(body) == 9
        case b"tRNS" if colour_type == _PALETTE:
            return len(body) <= 256
        case b"tRNS":
            return len(body) == 2 * CHANNELS[colour_type]
        case b"iCCP":
            _, _, rest = bytes(body).partition(b"\0")
            return rest[:1] == b"\0" and _is_profile(rest[1:])
    return True


def _is_profile(deflated: bytes) -> bool:
    """True if bytes can be inflated, to no more than the maximum of a profile."""
    inflator = zlib.decompressobj()
    try:
        inflator.decompress(deflated, MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return not inflator.unconsumed_tail


def _check(name: bytes, whole: memoryview) -> None:
    if not is_whole(whole):
        raise ImageCorrupt(f"the checksum of its {name.decode()} chunk is wrong")


def _check_length(pieces: list[memoryview], expected: int) -> None:
    """Inflate the pixels in small pieces, only to check that there are enough of them."""
    inflator = isal_zlib.decompressobj()
    found = 0
    try:
        for piece in pieces:
            rest: bytes | memoryview = piece
            while rest and found < expected and not inflator.eof:
                found += len(inflator.decompress(rest, _INFLATED_BYTES))
                rest = inflator.unconsumed_tail
        if found < expected and not inflator.eof:
            found += len(inflator.flush())  # it may hold back the end of a run of equal bytes
    except INFLATE_ERROR as error:
        raise ImageCorrupt("its compressed pixels are damaged") from error
    if found < expected:
        raise ImageCorrupt(CUT_OFF)


def _filled(pieces: list[memoryview], expected: int) -> bytes:
    """The pixels as one zlib stream, with zeros for those that are missing."""
    try:
        found = zlib.decompressobj().decompress(b"".join(pieces), expected)
    except zlib.error as error:
        raise ImageCorrupt("its compressed pixels are damaged") from error
    if not found:
        raise ImageCorrupt("it ends before its first row")
    return isal_zlib.compress(found.ljust(expected, b"\0"), _LEVEL)


#: First row and column of each pass of an interlaced PNG, and the steps to the next ones.
_PASSES = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def _filtered_bytes(png: bytes) -> int:
    """Number of bytes of all filtered rows, by the header."""
    width, height, bits, colour_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", png, 16)
    pixel_bits = bits * CHANNELS[colour_type]
    total = 0
    for top, left, down, across in _PASSES if interlaced else ((0, 0, 1, 1),):
        rows, columns = -(-(height - top) // down), -(-(width - left) // across)
        if rows > 0 and columns > 0:
            total += rows * (1 + -(-columns * pixel_bits // 8))
    return total


def _channels(picture: Picture) -> int:
    return (1 if picture.grey else 3) + (picture.alpha is not None)


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = isal_zlib.crc32(body, isal_zlib.crc32(name))
    return b"".join((struct.pack(">I", len(body)), name, body, struct.pack(">I", checksum)))


def _compressed(picture: Picture) -> Iterator[bytes]:
    """The filtered rows of a picture as one zlib stream, in pieces."""
    row_bytes = picture.width * _channels(picture) * (picture.bits // 8)
    rows = max(_STRIPE_BYTES // row_bytes, 1)
    yield _ZLIB_HEADER
    checksum = 1
    make = partial(_stripe, picture, rows=rows)
    for stripe in _in_order(make, range(0, picture.height, rows)):
        yield stripe.deflated
        checksum = _joined_adler(checksum, stripe.checksum, stripe.length)
    yield checksum.to_bytes(4, "big")


class _Stripe(NamedTuple):
    """Rows that were compressed independently, and checksum and length of the filtered bytes."""

    deflated: bytes
    checksum: int
    """Adler-32 of the filtered rows."""
    length: int


def _stripe(picture: Picture, top: int, *, rows: int) -> _Stripe:
    channels = _channels(picture)
    colours = channels - (picture.alpha is not None)
    above, end = max(top - 1, 0), min(top + rows, picture.height)
    sample = np.dtype(">u2" if picture.bits == 16 else "u1")
    samples = np.zeros((1 + end - top, picture.width, channels), sample)  # and the row above
    kept = samples[1 + above - top :]
    kept[..., :colours] = picture.colour[above:end, :, :colours]
    if picture.alpha is not None:
        kept[..., colours] = picture.alpha[above:end]
    flat = samples.view(np.uint8).reshape(len(samples), -1)
    filtered = np.full((end - top, 1 + flat.shape[1]), _FILTER_UP, np.uint8)
    np.subtract(flat[1:], flat[:-1], out=filtered[:, 1:])
    compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    deflated = compressor.compress(filtered)
    last = end == picture.height
    deflated += compressor.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_SYNC_FLUSH)
    return _Stripe(deflated, isal_zlib.adler32(filtered), filtered.size)


def _in_order(make: Callable[[int], _Stripe], tops: Iterable[int]) -> Iterator[_Stripe]:
    """Yield stripes in order; several threads make them ahead if there are spare processors."""
    threads = min(_MAX_THREADS, available_cpus() // _PROCESSORS_PER_THREAD)
    if threads < 2:
        yield from map(make, tops)
        return
    with ThreadPoolExecutor(threads) as pool:
        started: deque[Future[_Stripe]] = deque()
        for top in tops:
            started.append(pool.submit(make, top))
            if len(started) > threads:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()


def _joined_adler(first: int, second: int, length: int) -> int:
    """Adler-32 of two pieces together (RFC 1950); `length` is that of the second."""
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER_BASE
    high = (first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)
    return high % _ADLER_BASE << 16 | low
