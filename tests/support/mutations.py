"""Damaged pictures: random mutations of valid ones in every format.

The same number gives the same damage. Most pictures get their checksums and lengths repaired, so
that they pass the first checks and reach the codecs.
"""

import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers itself
import tifffile
from factories import (
    P3_PRIMARIES,
    GifPart,
    Pixels,
    PngPart,
    apng,
    cmyk_jpeg,
    gif,
    grey_profile,
    held,
    luma,
    photo,
    png,
    png_chunk,
    rgb_profile,
    saved,
    transparency,
    ycck_jpeg,
)
from numpy.typing import NDArray
from PIL import Image

from workers.contract.images.headers import read_header

_BOUNDARY = b"xxBOUNDARYxx"
_XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><a>b</a></x:xmpmeta>"


@cache
def seeds() -> tuple[bytes, ...]:
    """Return small pictures of every format and kind that the decoder reads."""
    pillow_heif.register_heif_opener()
    colour, alpha = photo(23, 37), transparency(23, 37)
    grey, rgba = luma(colour), np.dstack((colour, alpha))
    la, cmyk = np.dstack((grey, alpha)), np.dstack((255 - colour, grey))
    palette = Image.fromarray(colour).quantize(32)
    bilevel = Image.fromarray(grey).convert("1")
    second = [Image.fromarray(photo(23, 37, seed=seed)) for seed in (1, 2)]
    animated = {"save_all": True, "append_images": second}
    tagged = {"icc_profile": rgb_profile(P3_PRIMARIES), "exif": held(6).tobytes()}
    deep = np.arange(0, 65536, 77)[: 23 * 37].reshape(23, 37)
    numbers = np.arange(23 * 37).reshape(23, 37) % 256
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    frames = [GifPart(numbers), GifPart(numbers[:9, :8], left=3, top=2, disposal=2, clear=5)]
    parts = [PngPart(rgba), PngPart(rgba[:9, :8], left=3, top=2, disposal=1, over=True)]
    rgb16 = np.dstack((deep, deep[::-1], deep[:, ::-1])).astype(np.uint16)
    return (
        saved(colour, "JPEG", **tagged, xmp=_XMP, dpi=(300, 300)),
        saved(colour, "JPEG", progressive=True),
        saved(grey, "JPEG"),
        cmyk_jpeg(cmyk),
        ycck_jpeg(cmyk),
        saved(colour, "PNG", **tagged),
        saved(rgba, "PNG"),
        saved(la, "PNG"),
        saved(palette, "PNG", transparency=b"\0\x80"),
        saved(bilevel, "PNG"),
        saved(grey, "PNG", icc_profile=grey_profile(1.8)),
        png(colour, bits=8, colour_type=2, interlaced=True),
        png(np.dstack((deep,) * 3), bits=16, colour_type=2),
        png(np.dstack((deep, deep)), bits=16, colour_type=4),
        apng([*parts, *parts], height=23, width=37),
        saved(colour, "WEBP", **tagged, xmp=_XMP),
        saved(rgba, "WEBP", lossless=True),
        saved(colour, "WEBP", **animated),
        saved(colour, "TIFF", **tagged),
        saved(colour, "TIFF", compression="tiff_lzw"),
        saved(rgba, "TIFF", compression="tiff_adobe_deflate"),
        saved(colour, "TIFF", compression="jpeg"),
        saved(bilevel, "TIFF", compression="group4"),
        saved(deep.astype(np.uint16), "TIFF", compression="tiff_lzw"),
        saved(Image.fromarray(cmyk, "CMYK"), "TIFF"),
        saved(colour, "TIFF", **animated),
        saved(colour, "BMP"),
        saved(palette, "BMP"),
        saved(colour, "AVIF", **tagged),
        saved(rgba, "AVIF"),
        saved(colour, "AVIF", **animated),
        saved(palette, "GIF"),
        gif(frames, height=23, width=37, palette=colours),
        saved(colour, "HEIF", **tagged),
        saved(rgba, "HEIF"),
        saved(colour, "JXL"),
        saved(rgba, "JXL", lossless=True),
        saved(grey, "JXL", lossless=True, exif=held(6).tobytes()),
        saved(colour, "JXL", lossless=True, use_container=True),
        bytes(imagecodecs.jpegxl_encode(rgb16, lossless=True, bitspersample=16)),
        bytes(imagecodecs.avif_encode(rgb16 >> 6, level=95, bitspersample=10, numthreads=1)),
        bytes(imagecodecs.avif_encode(rgb16 >> 4, level=95, bitspersample=12, numthreads=1)),
        bytes(imagecodecs.jpeg8_encode(colour, lossless=True)),
        *_tiffs(colour, rgba, cmyk, rgb16),
    )


def _tiffs(colour: Pixels, rgba: Pixels, cmyk: Pixels, deep: NDArray[np.uint16]) -> list[bytes]:
    """TIFFs of the rarer kinds."""
    floats = (colour / 255).astype(np.float32)
    rows = {"rowsperstrip": 5}
    kinds: list[tuple[NDArray[Any], dict[str, Any]]] = [
        (np.moveaxis(deep, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        (deep, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}),
        (deep, {"photometric": "rgb", "compression": "adobe_deflate", "predictor": True, **rows}),
        (deep, {"photometric": "rgb", "compression": "zstd", "tile": (16, 16)}),
        (deep, {"photometric": "rgb", "compression": "lzma", **rows}),
        (floats, {"photometric": "rgb"}),
        (floats.astype(np.float16), {"photometric": "rgb", "compression": "lzw", **rows}),
        (rgba, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        (rgba.astype(np.uint16) * 257, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (cmyk.astype(np.uint16) * 257, {"photometric": "separated"}),
        (colour, {"photometric": 8, "planarconfig": "contig"}),
        (colour, {"photometric": "rgb", "compression": "webp"}),
        (colour, {"photometric": "rgb", "compression": "jpeg", "tile": (16, 16)}),
    ]
    found = []
    for samples, options in kinds:
        file = BytesIO()
        tifffile.imwrite(file, samples, metadata=None, software=False, **options)
        found.append(file.getvalue())
    return found


def damaged(number: int) -> tuple[bytes, int | None]:
    """Return a damaged picture, and the frame to ask for."""
    dice = random.Random(number)
    data = dice.choice(seeds())
    frames = read_header(BytesIO(data)).frames or 2
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        data = dice.choice(_DAMAGES)(data, dice)
    if dice.random() < 0.7:
        data = _repaired(data)
    return data, dice.choice((None, *(range(frames) if frames > 1 else ())))


def damaged_form(picture: bytes, dice: random.Random) -> tuple[bytes, str]:
    """Return a form, damaged or not, and its content type."""
    disposition = b'Content-Disposition: form-data; name="%b"'
    head = b"--" + _BOUNDARY + b"\r\n" + disposition
    body = head % b"image" + b'; filename="a.png"\r\n\r\n' + picture + b"\r\n"
    for name, value in ((b"format", b"webp"), (b"trade_off", b"0.5"), (b"name", b"caf\xc3\xa9")):
        if dice.random() < 0.5:
            body += head % name + b"\r\n\r\n" + value + b"\r\n"
    body += b"--" + _BOUNDARY + b"--\r\n"
    if dice.random() < 0.5:
        changed = bytearray(body)
        edges = [*range(min(len(body), 120)), *range(max(len(body) - 250, 0), len(body))]
        for _ in range(dice.choice((1, 2, 6))):
            changed[dice.choice(edges)] = dice.choice((0, 10, 13, 34, 45, 58, 59, 255))
        body = bytes(changed)
    if dice.random() < 0.1:
        body = body[: dice.randrange(len(body))]
    kind = f"multipart/form-data; boundary={_BOUNDARY.decode()}"
    kinds = (kind, kind, kind, kind, kind + "x", "multipart/form-data", kind.replace("; ", ";"))
    return body, dice.choice(kinds)


def _flip(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 2, 8, 32))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _flip_start(data: bytes, dice: random.Random) -> bytes:
    """Flip bits in the first 200 bytes, which hold sizes, types and offsets."""
    return _flip(data[:200], dice) + data[200:]


def _extreme(data: bytes, dice: random.Random) -> bytes:
    """Overwrite some bytes with a number that is often too large, too small or negative."""
    value = dice.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**16, 255, dice.randrange(2**32)))
    written = struct.pack(dice.choice("<>") + "I", value)[dice.choice((0, 2, 3)) :]
    place = dice.randrange(len(data))
    return data[:place] + written + data[place + len(written) :]


def _cut(data: bytes, dice: random.Random) -> bytes:
    return data[: max(1, dice.randrange(len(data)))]


def _spliced(data: bytes, dice: random.Random) -> bytes:
    """Join the start of one picture to the end of another."""
    other = dice.choice(seeds())
    return data[: dice.randrange(1, len(data) + 1)] + other[dice.randrange(len(other)) :]


def _moved(data: bytes, dice: random.Random) -> bytes:
    """Remove, repeat or move a part."""
    start, end = sorted((dice.randrange(len(data)), dice.randrange(len(data))))
    part, rest = data[start : min(end, start + 500)], data[:start] + data[end:]
    place = dice.randrange(len(rest) + 1)
    return dice.choice(
        (rest or data, data[:end] + part + data[end:], rest[:place] + part + rest[place:])
    )


def _noise(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data))
    return data[:place] + dice.randbytes(dice.choice((1, 4, 64))) + data[place:]


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip, _flip_start, _extreme, _extreme, _cut, _spliced, _moved, _noise,
)  # fmt: skip


def _repaired(data: bytes) -> bytes:
    """Repair lengths and checksums: those of PNG chunks, or the length of a RIFF file."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _repaired_png(data)
    if data.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", max(len(data) - 8, 0)) + data[8:]
    return data


def _repaired_png(data: bytes) -> bytes:
    chunks, offset = [], 8
    while offset + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 8 : offset + 8 + length]
        if name == b"IDAT" and len(body) > 6:
            body = _repaired_zlib(body)
        chunks.append(png_chunk(name, body))
        offset += 12 + length
    return data[:8] + b"".join(chunks)


def _repaired_zlib(data: bytes) -> bytes:
    """Recompress as much as can be read into a complete stream."""
    reader = zlib.decompressobj()
    read = b""
    try:
        for place in range(len(data)):
            read += reader.decompress(data[place : place + 1], 2**20)
    except zlib.error:
        pass
    return zlib.compress(read, 1) if read else data
