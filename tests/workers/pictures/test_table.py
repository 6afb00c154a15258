"""Every combination of format, depth, colour tag and oddity gives the same picture.

The expected values are computed here in floating point from the stored samples, for tags from their
chromaticities, and without any of the decoder's code.
"""

import itertools
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from factories import P3_PRIMARIES, SRGB_PRIMARIES, png, rgb_profile, saved, srgb_decoded, to_xyz
from factories import srgb_encoded as encoded
from numpy.typing import NDArray
from PIL import Image

from workers.contract.images.options import ProfileMode
from workers.pictures.decode import decode

Floats = NDArray[np.float64]

HEIGHT, WIDTH = 24, 40
#: In [0, 1], and smooth, so that a lossy codec stays close.
VALUES = np.stack(
    (
        np.tile(np.linspace(0.1, 0.9, WIDTH), (HEIGHT, 1)),
        np.tile(np.linspace(0.9, 0.2, HEIGHT)[:, None], (1, WIDTH)),
        np.full((HEIGHT, WIDTH), 0.4),
    ),
    axis=-1,
)
ALPHA = np.tile(np.linspace(0, 1, WIDTH), (HEIGHT, 1))
P3 = rgb_profile(P3_PRIMARIES)


BT709 = to_xyz((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE = to_xyz((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
DISPLAY_P3 = to_xyz((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))


def light(value: Floats) -> Floats:
    return srgb_decoded(255 * value)  # type: ignore[arg-type]


def converted(linear: Floats, space: Floats, srgb: Floats = BT709) -> Floats:
    """Convert linear light to sRGB values in [0, 1]."""
    return encoded(linear @ (np.linalg.inv(srgb) @ space).T) / 255


def of_tag(value: Floats, tag: str) -> Floats:
    """Convert samples as their colour tag says."""
    match tag:
        case "linear gAMA":
            return converted(value, BT709)
        case "Adobe cHRM":
            return converted(value**2.2, ADOBE)
        case "P3 cICP":
            return converted(light(value), DISPLAY_P3)
        case "P3 iCCP":
            return converted(light(value), P3_PRIMARIES, SRGB_PRIMARIES)
        case _:
            return value


ADOBE_CHRM = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
CHUNKS = {
    "untagged": [],
    "sRGB": [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))],
    "linear gAMA": [(b"gAMA", struct.pack(">I", 100_000))],
    "Adobe cHRM": [
        (b"gAMA", struct.pack(">I", 45_455)),
        (b"cHRM", struct.pack(">8I", *ADOBE_CHRM)),
    ],
    "P3 cICP": [(b"cICP", b"\x0c\x0d\0\1")],
    "P3 iCCP": [(b"iCCP", b"P3\0\0" + zlib.compress(P3))],
}
#: Channels, bits and PNG colour type.
PNG_KINDS = {
    "grey": (1, 8, 0), "16-bit grey": (1, 16, 0),
    "grey and alpha": (2, 8, 4), "16-bit grey and alpha": (2, 16, 4),
    "RGB": (3, 8, 2), "16-bit RGB": (3, 16, 2), "RGBA": (4, 8, 6), "16-bit RGBA": (4, 16, 6),
}  # fmt: skip
PNG_ODDITIES = ("plain", "interlaced", "without an end", "with a damaged pHYs")


def planes(channels: int) -> Floats:
    """Return the samples in [0, 1]."""
    colour = VALUES if channels > 2 else VALUES[..., :1]
    return np.dstack((colour, ALPHA)) if channels in (2, 4) else colour


@pytest.mark.parametrize(
    ("kind", "tag", "oddity"), list(itertools.product(PNG_KINDS, CHUNKS, PNG_ODDITIES))
)
def test_a_png(kind: str, tag: str, oddity: str) -> None:
    channels, bits, colour_type = PNG_KINDS[kind]
    full = 2**bits - 1
    samples = np.rint(planes(channels) * full)
    chunks = [*CHUNKS[tag], (b"pHYs", struct.pack(">IIB", 2835, 2835, 1))]
    data = png(
        samples.astype(int),
        bits=bits,
        colour_type=colour_type,
        chunks=chunks,
        interlaced=oddity == "interlaced",
    )
    if oddity == "without an end":
        data = data[:-12]
    elif oddity == "with a damaged pHYs":
        at = data.index(b"pHYs") + 5
        data = data[:at] + b"\xff" + data[at + 1 :]
    picture = decode(data, max_pixels=10_000)
    stored = samples / full
    colour = stored[..., :3] if channels > 2 else np.repeat(stored[..., :1], 3, axis=-1)

    assert picture.bits == bits
    assert picture.grey == (channels < 3)
    assert np.abs(picture.colour / full - of_tag(colour, tag)).max() <= (
        1.3 / 255 if bits == 8 else (2e-3 if tag == "P3 iCCP" else 4e-4)
    )
    if channels in (2, 4):
        assert np.array_equal(picture.alpha, samples[..., -1])  # type: ignore[arg-type]
    else:
        assert picture.alpha is None
    damaged = ("dropped a damaged pHYs chunk",) if oddity == "with a damaged pHYs" else ()
    assert picture.warnings == damaged
    kept = decode(data, max_pixels=10_000, icc=ProfileMode.KEEP)
    assert np.array_equal(kept.colour, np.rint(colour * full))


OTHERS = {
    "JPEG": ("JPEG", {"quality": 97, "subsampling": "4:4:4"}, 3),
    "JPEG, progressive": ("JPEG", {"quality": 97, "subsampling": "4:4:4", "progressive": True}, 3),
    "JPEG with restarts": (
        "JPEG",
        {"quality": 97, "subsampling": "4:4:4", "restart_marker_rows": 1},
        3,
    ),
    "WebP": ("WEBP", {"lossless": True}, 0),
    "TIFF": ("TIFF", {}, 0),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}, 0),
    "TIFF, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
    "AVIF": ("AVIF", {"quality": 97, "subsampling": "4:4:4"}, 5),
}


@pytest.mark.parametrize(
    ("kind", "tag", "end"),
    [
        (kind, tag, end)
        for kind, tag, end in itertools.product(OTHERS, ("untagged", "P3 iCCP"), ("whole", "cut"))
        if end == "whole" or kind.startswith("JPEG")
    ],
)
def test_another_format(kind: str, tag: str, end: str) -> None:
    name, options, loss = OTHERS[kind]
    samples = np.rint(VALUES * 255).astype(np.uint8)
    profile = P3 if tag == "P3 iCCP" else None
    data = saved(samples, name, icc_profile=profile, **options)
    stored = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    picture = decode(data[:-2] if end == "cut" else data, max_pixels=10_000)

    assert np.abs(stored.astype(int) - samples).max() <= loss
    assert np.abs(picture.colour / 255 - of_tag(stored / 255, tag)).max() <= 1.3 / 255
