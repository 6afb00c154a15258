"""Small seeded pictures in every format and kind. Formats that Pillow cannot write are built from
scratch, so that no decoder is checked against its own encoder.
"""

import struct
import zlib
from collections.abc import Iterable
from io import BytesIO
from typing import Any, Literal, NamedTuple

import numpy as np
import redis
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from workers.contract.queue import engines
from workers.contract.queue.engines import EngineInfo, ModelInfo

Pixels = NDArray[np.uint8]


def photo(height: int = 20, width: int = 30, *, seed: int = 0) -> Pixels:
    """Return a picture with gradients and a little noise, (H, W, 3)."""
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    smooth = np.stack((x, y, (2 - x - y) / 2), axis=-1) * 200 + 20
    noise = np.random.default_rng(seed).normal(0, 4, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def transparency(height: int = 20, width: int = 30) -> Pixels:
    """Return an alpha channel (H, W) from clear on the left to opaque on the right."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def luma(colour: Pixels) -> Pixels:
    """Return a grey picture (H, W)."""
    return np.asarray(Image.fromarray(colour).convert("L"))


def saved(pixels: ArrayLike | Image.Image, picture_format: str, **options: Any) -> bytes:
    """Encode with Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    file = BytesIO()
    image.save(file, picture_format, **options)
    return file.getvalue()


def held(orientation: int) -> Image.Exif:
    """Return EXIF data with this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# PNG


def png(
    samples: ArrayLike,
    *,
    bits: int,
    colour_type: int,
    chunks: Iterable[tuple[bytes, bytes]] = (),
    interlaced: bool = False,
) -> bytes:
    """Return a PNG of samples (H, W) or (H, W, channels), with `chunks` before the pixels."""
    values = np.asarray(samples)
    planes = values.reshape(*values.shape[:2], -1)
    height, width = planes.shape[:2]
    passes = [planes]
    if interlaced:
        steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4))
        steps += ((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        passes = [planes[y::down, x::across] for y, x, down, across in steps]
    rows = b"".join(
        b"\0" + _packed(row, bits)
        for part in passes
        if part.size
        for row in part.reshape(len(part), -1)
    )
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _packed(row: NDArray[np.integer], bits: int) -> bytes:
    if bits >= 8:
        return row.astype(f">u{bits // 8}").tobytes()
    shifts = np.arange(bits)[::-1]
    return np.packbits((row[:, None] >> shifts & 1).astype(np.uint8)).tobytes()


# JPEG


def without_jpeg_segment(jpeg: bytes, marker: int) -> bytes:
    """Return a JPEG without its first segment of that marker."""
    start = jpeg.index(bytes((0xFF, marker)))
    (length,) = struct.unpack_from(">H", jpeg, start + 2)
    return jpeg[:start] + jpeg[start + 2 + length :]


def cmyk_jpeg(cmyk: Pixels, **options: Any) -> bytes:
    """Return a CMYK JPEG as Adobe writes it: with an Adobe marker, and 0 for full ink."""
    image = Image.fromarray(cmyk, "CMYK")
    return saved(image, "JPEG", quality=100, subsampling="4:4:4", **options)


def ycck_jpeg(cmyk: Pixels) -> bytes:
    """Return a CMYK JPEG like that of `cmyk_jpeg`, with cyan, magenta and yellow as YCbCr."""
    luminance_colour = np.asarray(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
    # Pillow inverts all four channels, but only black is to be inverted.
    jpeg = cmyk_jpeg(np.dstack((255 - luminance_colour, cmyk[..., 3])))
    transform = jpeg.index(b"Adobe") + 11
    return jpeg[:transform] + b"\2" + jpeg[transform + 1 :]


# TIFF


def tiff(
    strip: bytes,
    *,
    height: int,
    width: int,
    bits: Iterable[int],
    photometric: int,
    order: Literal["<", ">"] = "<",
    tags: Iterable[tuple[int, int]] = (),
    next_page: int = 0,
) -> bytes:
    """Return an uncompressed TIFF of one strip; each extra tag holds one short."""
    depths = tuple(bits)
    fields: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (width,)),
        257: ("I", (height,)),
        258: ("H", depths),
        259: ("H", (1,)),
        262: ("H", (photometric,)),
        273: ("I", (8,)),
        277: ("H", (len(depths),)),
        278: ("I", (height,)),
        279: ("I", (len(strip),)),
        **{tag: ("H", (value,)) for tag, value in tags},
    }
    pixels = strip + b"\0" * (len(strip) % 2)
    page = 8 + len(pixels)
    beyond = page + 2 + 12 * len(fields) + 4
    entries, overflow = b"", b""
    for tag, (code, values) in sorted(fields.items()):
        data = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(data) > 4:
            place = struct.pack(order + "I", beyond + len(overflow))
            overflow += data
            data = place
        entries += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(values))
        entries += data.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, page)
    ending = struct.pack(order + "I", next_page)
    return start + pixels + struct.pack(order + "H", len(fields)) + entries + ending + overflow


# GIF


class GifPart(NamedTuple):
    """One frame of a GIF: palette indices (H, W) and their position."""

    indices: NDArray[np.integer]
    left: int = 0
    top: int = 0
    disposal: int = 0
    clear: int | None = None
    palette: Pixels | None = None
    interlaced: bool = False


def gif(
    parts: Iterable[GifPart], *, height: int, width: int, palette: Pixels | None = None
) -> bytes:
    """Return a GIF of these frames; palettes have 256 colours."""
    flags = 0 if palette is None else 0xF7
    data = struct.pack("<6sHHBBB", b"GIF89a", width, height, flags, 0, 0)
    data += b"" if palette is None else palette.tobytes()
    for part in parts:
        flags = part.disposal << 2 | (part.clear is not None)
        data += struct.pack("<2sBBHBB", b"!\xf9", 4, flags, 5, part.clear or 0, 0)
        rows, columns = part.indices.shape
        flags = 0x40 * part.interlaced | (0x87 if part.palette is not None else 0)
        data += struct.pack("<B4HB", 0x2C, part.left, part.top, columns, rows, flags)
        data += b"" if part.palette is None else part.palette.tobytes()
        order = [*range(rows)]
        if part.interlaced:
            order = [*range(0, rows, 8), *range(4, rows, 8), *range(2, rows, 4), *range(1, rows, 2)]
        data += b"\x08" + _pieces(_codes(part.indices[order].ravel()))
    return data + b";"


def _codes(numbers: NDArray[np.integer]) -> bytes:
    """Encode as LZW with 9-bit codes: frequent clear codes keep them from growing."""
    codes: list[int] = []
    for start in range(0, len(numbers), 250):
        codes += [256, *map(int, numbers[start : start + 250])]
    codes.append(257)
    bits = np.array([[code >> bit & 1 for bit in range(9)] for code in codes], np.uint8)
    return np.packbits(bits.ravel(), bitorder="little").tobytes()


def _pieces(data: bytes) -> bytes:
    pieces = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes((len(piece),)) + piece for piece in pieces) + b"\0"


# APNG


class PngPart(NamedTuple):
    """One frame of an animated PNG: samples (H, W, channels) and their position."""

    samples: NDArray[np.integer]
    left: int = 0
    top: int = 0
    disposal: int = 0
    over: bool = False


def apng(
    parts: Iterable[PngPart],
    *,
    height: int,
    width: int,
    bits: int = 8,
    colour_type: int = 6,
    chunks: Iterable[tuple[bytes, bytes]] = (),
    still: ArrayLike | None = None,
) -> bytes:
    """Return an animated PNG; with `still`, the default image is not one of its frames."""
    frames = list(parts)
    found: list[tuple[bytes, bytes]] = [(b"acTL", struct.pack(">II", len(frames), 0)), *chunks]
    if still is not None:
        found.append((b"IDAT", _png_pixels(np.asarray(still), bits)))
    number = 0
    for place, part in enumerate(frames):
        rows, columns = part.samples.shape[:2]
        control = (number, columns, rows, part.left, part.top, 1, 10, part.disposal, part.over)
        found.append((b"fcTL", struct.pack(">5IHHBB", *control)))
        pixels = _png_pixels(part.samples, bits)
        if place or still is not None:
            found.append((b"fdAT", struct.pack(">I", number + 1) + pixels))
            number += 1
        else:
            found.append((b"IDAT", pixels))
        number += 1
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = [(b"IHDR", header), *found, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in body)


def _png_pixels(samples: NDArray[np.integer], bits: int) -> bytes:
    rows = samples.reshape(len(samples), -1)
    return zlib.compress(b"".join(b"\0" + _packed(row, bits) for row in rows))


# AVIF and HEIC


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


# Colour profiles

#: Primaries of sRGB and Display P3 in columns, as in ICC profiles (adapted to D50).
SRGB_PRIMARIES = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
P3_PRIMARIES = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


def rgb_profile(primaries: NDArray[np.float64]) -> bytes:
    """Return an ICC profile of these primaries with the curve of sRGB."""
    curve = b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    colours = {
        f"{name}XYZ".encode(): b"XYZ \0\0\0\0" + _fixed(*column)
        for name, column in zip("rgb", primaries.T, strict=True)
    }
    return icc_profile(b"mntrRGB XYZ ", {**colours, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def grey_profile(gamma: float) -> bytes:
    """Return an ICC profile for grey pictures of this gamma."""
    curve = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(gamma * 256))
    return icc_profile(b"mntrGRAYXYZ ", {b"kTRC": curve})


def cmyk_profile(*, dimming: tuple[float, float, float, float]) -> bytes:
    """Return an ICC profile that scales the paper's lightness by one factor for each full ink
    (cyan, magenta, yellow, black) and leaves no colour.
    """
    ramp = bytes(range(256))
    lightness = np.ones(1)
    for share in dimming:
        lightness = np.multiply.outer(lightness, (1, share))
    cells = np.stack(np.broadcast_arrays(lightness * 255, 128, 128), axis=-1)
    table = b"mft1\0\0\0\0\4\3\2\0" + _fixed(*np.eye(3).ravel()) + 4 * ramp
    table += cells.round().astype(np.uint8).tobytes() + 3 * ramp
    return icc_profile(b"prtrCMYKLab ", {b"A2B0": table}, version=2)


#: The x and y (CIE 1931) of white.
D65 = (0.3127, 0.3290)


def to_xyz(*primaries: tuple[float, float]) -> NDArray[np.float64]:
    """Return the matrix to XYZ from linear light of primaries, by x and y, with a white of D65."""
    white, *columns = (np.array((x / y, 1, (1 - x - y) / y)) for x, y in (D65, *primaries))
    matrix = np.stack(columns, axis=1)
    return matrix * np.linalg.solve(matrix, white)


def srgb_encoded(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Encode linear light in [0, 1] as sRGB levels in [0, 255]."""
    light = np.clip(linear, 0, 1)
    return 255 * np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)


def srgb_decoded(levels: Pixels) -> NDArray[np.float64]:
    """Decode sRGB levels in [0, 255] to linear light in [0, 1]."""
    value = levels / 255
    return np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def icc_profile(kind: bytes, tags: dict[bytes, bytes], *, version: int = 4) -> bytes:
    """Return an ICC profile of these tags; `kind` is its class, colour space and PCS."""
    white = _fixed(0.9642, 1.0, 0.8249)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + white, **tags}
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", offset + len(data), len(body))
        data += body + b"\0" * (-len(body) % 4)
    start = struct.pack(">I4sBBH", offset + len(data), b"\0\0\0\0", version, 0, 0) + kind
    return start.ljust(36, b"\0") + b"acsp".ljust(32, b"\0") + white.ljust(60, b"\0") + table + data


# Engines


def engine_info(**changes: Any) -> EngineInfo:
    """Return the announcement of an engine with one model."""
    model = ModelInfo(
        name="lite",
        sha256="0" * 64,
        preset="lite",
        scale=4,
        card={"licence": "Apache-2.0"},
        precision="float32",
        pixels_per_second={"psnr": 4e5, "fused": 2e5, "gan": 3e5},
    )
    engine = EngineInfo(
        id="one", host="here", device="cpu", tile=128, default_model="lite", models=(model,)
    )
    return engine.model_copy(update=changes)


def register(client: redis.Redis, engine: EngineInfo) -> None:
    """Register an engine without expiry; a real engine renews its entry every 5 s."""
    engines.register(client, engine)
    client.persist(f"gdsr:engine:{engine.id}")
