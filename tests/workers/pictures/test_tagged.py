"""Numeric colour tags are applied: PNG's cICP, sRGB, gAMA and cHRM, and the nclx of AVIF and HEIC.

The expected values are computed here from the chromaticities.
"""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pillow_jxl  # noqa: F401 - registers itself
import pytest
from factories import (
    D65,
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    PngPart,
    apng,
    grey_profile,
    png,
    rgb_profile,
    saved,
    srgb_decoded,
    srgb_encoded,
    to_xyz,
)
from numpy.typing import NDArray
from PIL import Image
from pillow_heif import register_heif_opener

from workers.contract.errors import ImageUnsupported
from workers.contract.images.headers import read_header
from workers.contract.images.options import PictureChoices, ProfileMode
from workers.pictures.decode import decode
from workers.pictures.finish import postprocess
from workers.pictures.picture import Picture

register_heif_opener()

Floats = NDArray[np.float64]
Levels = NDArray[np.integer]
Chunk = tuple[bytes, bytes]

#: Colours that differ in every space; each cell is enlarged to 8 x 8.
CELLS = np.array(
    [[(200, 60, 50), (60, 180, 70), (50, 70, 190), (128, 128, 128)],
     [(30, 30, 30), (235, 235, 235), (220, 200, 60), (150, 60, 160)]]
)  # fmt: skip
COLOUR = CELLS.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)

BT709 = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3 = (D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
BT2020 = (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
ADOBE = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
PAL = (D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06))
P3_PROFILE = rgb_profile(P3_PRIMARIES)
SRGB_PROFILE = rgb_profile(SRGB_PRIMARIES)

Space = tuple[tuple[float, float], ...]


def in_srgb(samples: Levels, space: Space, light: Callable[[Floats], Floats]) -> Floats:
    """Convert to sRGB; both spaces have the same white, so there is no adaptation."""
    matrix = np.linalg.inv(to_xyz(*BT709[1:])) @ to_xyz(*space[1:])
    return srgb_encoded(light(samples / 255) @ matrix.T)


def srgb(value: Floats) -> Floats:
    return srgb_decoded(value * 255)  # type: ignore[arg-type]


def power(exponent: float) -> Callable[[Floats], Floats]:
    return lambda value: value**exponent


def gama(value: int) -> Chunk:
    return b"gAMA", struct.pack(">I", value)


def chrm(space: Space) -> Chunk:
    return b"cHRM", struct.pack(">8I", *(round(100_000 * part) for pair in space for part in pair))


def cicp(primaries: int, transfer: int, *, matrix: int = 0, full: int = 1) -> Chunk:
    return b"cICP", bytes((primaries, transfer, matrix, full))


SRGB: Chunk = (b"sRGB", b"\0")
ICCP: Chunk = (b"iCCP", b"P3\0\0" + zlib.compress(P3_PROFILE))
BROKEN_ICCP: Chunk = (b"iCCP", b"P3\0\0" + zlib.compress(P3_PROFILE[:200]))
GREY_ICCP: Chunk = (b"iCCP", b"grey\0\0" + zlib.compress(grey_profile(1.0)))
GARBLED_ICCP: Chunk = (b"iCCP", b"P3\0\0" + zlib.compress(P3_PROFILE).replace(b"\x78", b"\0", 1))
HUGE_ICCP: Chunk = (b"iCCP", b"P3\0\0" + zlib.compress(bytes(2**23)))
LARGE = struct.pack(">I", len(P3_PROFILE) + 2**21) + P3_PROFILE[4:] + bytes(2**21)
LARGE_ICCP: Chunk = (b"iCCP", b"P3\0\0" + zlib.compress(LARGE))

AS_STORED = COLOUR.astype(float)
MEANT: dict[str, tuple[list[Chunk], Floats]] = {
    "nothing": ([], AS_STORED),
    "gAMA of linear light": ([gama(100_000)], in_srgb(COLOUR, BT709, power(1))),
    "gAMA of 1.8": ([gama(55_556)], in_srgb(COLOUR, BT709, power(1.8))),
    "gAMA of sRGB": ([gama(45_455)], AS_STORED),
    "gAMA and cHRM of sRGB": ([gama(45_455), chrm(BT709)], AS_STORED),
    "cHRM of P3 alone": ([chrm(P3)], in_srgb(COLOUR, P3, srgb)),
    "cICP of P3": ([cicp(12, 13)], in_srgb(COLOUR, P3, srgb)),
    "cICP of sRGB": ([cicp(1, 13)], AS_STORED),
    "cICP of BT.709, shown as browsers do": ([cicp(1, 1)], AS_STORED),
    "cICP of BT.2020": ([cicp(9, 14)], in_srgb(COLOUR, BT2020, srgb)),
    "cICP of linear light": ([cicp(1, 8)], in_srgb(COLOUR, BT709, power(1))),
    "cICP of 2.8": ([cicp(5, 5)], in_srgb(COLOUR, PAL, power(2.8))),
    "cICP with nothing said": ([cicp(2, 2)], AS_STORED),
    "cICP for YCbCr, which PNG is not": ([cicp(12, 13, matrix=6)], AS_STORED),
    "gAMA, then sRGB": ([gama(100_000), SRGB], AS_STORED),
    "iCCP before sRGB and gAMA": (
        [SRGB, gama(100_000), ICCP],
        in_srgb(COLOUR, P3, srgb),
    ),
    "iCCP of 2 MiB": ([LARGE_ICCP], in_srgb(COLOUR, P3, srgb)),
    "cICP before iCCP": ([ICCP, cicp(1, 13)], AS_STORED),
    "cICP of unknown numbers, then iCCP": ([ICCP, cicp(200, 13)], in_srgb(COLOUR, P3, srgb)),
    "cICP of unknown numbers, then cHRM": ([cicp(200, 13), chrm(P3)], in_srgb(COLOUR, P3, srgb)),
    "broken iCCP, then cHRM": ([BROKEN_ICCP, chrm(P3)], in_srgb(COLOUR, P3, srgb)),
    "iCCP for grey, then gAMA": ([GREY_ICCP, gama(55_556)], in_srgb(COLOUR, BT709, power(1.8))),
    "broken iCCP, then sRGB and gAMA": ([BROKEN_ICCP, SRGB, gama(100_000)], AS_STORED),
    "garbled iCCP, then cHRM": ([GARBLED_ICCP, chrm(P3)], in_srgb(COLOUR, P3, srgb)),
    "iCCP of 8 MiB, then cHRM": ([HUGE_ICCP, chrm(P3)], in_srgb(COLOUR, P3, srgb)),
    "cICP before sRGB": ([SRGB, cicp(12, 13)], in_srgb(COLOUR, P3, srgb)),
    "gAMA of nothing": ([gama(0)], AS_STORED),
    "cHRM of one point": ([chrm((D65,) * 4)], AS_STORED),
    "cHRM of zeros": ([(b"cHRM", bytes(32))], AS_STORED),
    "cICP of unknown numbers": ([cicp(200, 201)], AS_STORED),
}


def decoded(data: bytes, icc: ProfileMode = ProfileMode.SRGB) -> Picture:
    return decode(data, max_pixels=100_000, icc=icc)


def off(picture: Picture, expected: Floats, *, unit: int = 1) -> float:
    return float(np.abs(picture.colour / unit - expected).max())


@pytest.mark.parametrize("kind", MEANT)
def test_a_png_is_shown_in_the_space_that_it_says(kind: str) -> None:
    chunks, expected = MEANT[kind]

    assert off(decoded(png(COLOUR, bits=8, colour_type=2, chunks=chunks)), expected) <= 1.3


@pytest.mark.parametrize("kind", MEANT)
def test_a_png_of_16_bits_is_shown_in_the_space_that_it_says(kind: str) -> None:
    chunks, expected = MEANT[kind]
    picture = decoded(png(COLOUR.astype(int) * 257, bits=16, colour_type=2, chunks=chunks))

    assert picture.bits == 16
    assert off(picture, expected, unit=257) <= 0.3


def test_a_palette_has_its_space() -> None:
    palette = CELLS.reshape(-1, 3)
    numbers = np.arange(8).reshape(2, 4).repeat(8, axis=0).repeat(8, axis=1)
    chunks = [cicp(12, 13), (b"PLTE", palette.astype(np.uint8).tobytes())]
    picture = decoded(png(numbers, bits=8, colour_type=3, chunks=chunks))

    assert off(picture, in_srgb(COLOUR, P3, srgb)) <= 1.3


@pytest.mark.parametrize("chunk", [cicp(12, 13), chrm(P3)], ids=["cICP", "cHRM"])
def test_each_frame_of_an_animation_has_the_space_of_all(chunk: Chunk) -> None:
    part = np.dstack((COLOUR, np.full(COLOUR.shape[:2], 255)))
    data = apng([PngPart(part), PngPart(part)], height=16, width=32, chunks=[chunk])
    picture = decode(data, max_pixels=10_000, frame=1)

    assert off(picture, in_srgb(COLOUR, P3, srgb)) <= 1.3


@pytest.mark.parametrize("kind", ["gAMA of linear light", "cICP of P3", "cHRM of P3 alone"])
def test_a_colour_space_given_by_numbers_can_be_kept(kind: str) -> None:
    chunks, expected = MEANT[kind]
    data = png(COLOUR, bits=8, colour_type=2, chunks=chunks)
    kept = decoded(data, ProfileMode.KEEP)

    assert np.array_equal(postprocess(kept, PictureChoices(icc=ProfileMode.KEEP)).colour, COLOUR)
    again = decoded(saved(COLOUR, "PNG", icc_profile=kept.profile))
    assert off(again, expected) <= 1.3


@pytest.mark.parametrize(
    ("chunks", "warning"),
    [
        ([cicp(200, 13)], "code points 200, 13"),
        ([chrm((D65,) * 4)], "gAMA and cHRM chunks that make no sense"),
        ([gama(7)], "gAMA and cHRM chunks that make no sense"),
        ([BROKEN_ICCP, chrm(P3)], "broken colour profile"),
        ([GREY_ICCP, gama(55_556)], "colour profile for GRAY"),
        ([GARBLED_ICCP], "a damaged iCCP chunk"),
        ([HUGE_ICCP], "a damaged iCCP chunk"),
    ],
)
def test_numbers_that_make_no_sense_are_ignored_with_a_warning(
    chunks: list[Chunk], warning: str
) -> None:
    assert warning in decoded(png(COLOUR, bits=8, colour_type=2, chunks=chunks)).warnings[0]


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused_and_never_taken_for_srgb(transfer: int, name: str) -> None:
    with pytest.raises(ImageUnsupported, match=f"high dynamic range .{name}"):
        decoded(png(COLOUR, bits=8, colour_type=2, chunks=[cicp(9, transfer)]))
    with pytest.raises(ImageUnsupported, match=f"high dynamic range .{name}"):
        decoded(with_nclx(saved(COLOUR, "AVIF"), 9, transfer))


def test_the_narrow_range_of_video_is_refused() -> None:
    with pytest.raises(ImageUnsupported, match="narrow range"):
        decoded(png(COLOUR, bits=8, colour_type=2, chunks=[cicp(12, 13, full=0)]))


def test_a_space_whose_checksum_is_wrong_does_not_count() -> None:
    data = bytearray(png(COLOUR, bits=8, colour_type=2, chunks=[cicp(12, 13)]))
    data[data.index(b"cICP") + 8] ^= 1

    assert read_header(BytesIO(bytes(data))).cicp is None


# EXIF


def exif_of(space: int, index: str) -> bytes:
    """Return EXIF with a colour space and an interoperability index, as cameras write it."""
    exif = Image.Exif()
    exif[0x8769] = {0xA001: space, 0xA005: {1: index, 2: b"0100"}}
    return exif.tobytes()


LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": "4:4:4"}, "WEBP": {"lossless": True}, "PNG": {},
    "HEIF": {"quality": -1, "chroma": 444, "save_nclx_profile": False},
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSLESS)
def test_adobe_rgb_is_read_from_exif_and_can_be_kept(name: str) -> None:
    data = saved(COLOUR, name, exif=exif_of(65535, "R03"), **LOSSLESS[name])
    kept = decoded(data, ProfileMode.KEEP)

    assert off(decoded(data), in_srgb(COLOUR, ADOBE, power(563 / 256))) <= 4
    assert np.abs(kept.colour - COLOUR.astype(int)).max() <= 3
    assert (
        off(decoded(saved(kept.colour, "PNG", icc_profile=kept.profile)), decoded(data).colour) <= 1
    )


@pytest.mark.parametrize(
    ("name", "exif", "options"),
    [
        ("JPEG", exif_of(65535, "R98"), {}),
        ("JPEG", exif_of(1, "R03"), {}),
        ("JPEG", exif_of(65535, "R03"), {"icc_profile": SRGB_PROFILE}),
        ("HEIF", exif_of(65535, "R03"), {"save_nclx_profile": True}),
        ("JXL", exif_of(65535, "R03"), {"lossless": True}),
    ],
    ids=["another index", "sRGB", "a profile", "code points", "JPEG XL"],
)
def test_exif_does_not_name_adobe_rgb_against_others(
    name: str, exif: bytes, options: dict[str, Any]
) -> None:
    data = saved(COLOUR, name, exif=exif, **{**LOSSLESS.get(name, {}), **options})

    assert off(decoded(data), AS_STORED) <= 3


def test_a_colour_chunk_counts_more_than_exif() -> None:
    body = exif_of(65535, "R03").removeprefix(b"Exif\0\0")
    for chunks, expected in (
        ([], in_srgb(COLOUR, ADOBE, power(563 / 256))), ([SRGB], AS_STORED),
        ([chrm(P3)], in_srgb(COLOUR, P3, srgb)),
    ):  # fmt: skip
        data = png(COLOUR, bits=8, colour_type=2, chunks=[*chunks, (b"eXIf", body)])
        assert off(decoded(data), expected) <= 1.3


# AVIF and HEIC


def with_nclx(data: bytes, primaries: int, transfer: int) -> bytes:
    """Return the file with other code points, but with the same matrix, which the codec needs."""
    at = data.index(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


BEST = {"quality": 100, "subsampling": "4:4:4"}
STILL = {
    "AVIF": saved(COLOUR, "AVIF", quality=100, subsampling="4:4:4"),
    "HEIC": saved(COLOUR, "HEIF", quality=-1, chroma=444),
}


@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize(
    ("numbers", "space", "light"),
    [
        ((12, 13), P3, srgb),
        ((9, 14), BT2020, srgb),
        ((1, 13), BT709, srgb),
        ((1, 8), BT709, power(1)),
    ],
    ids=["P3", "BT.2020", "sRGB", "linear"],
)
def test_avif_and_heic_are_shown_in_the_space_that_they_say(
    name: str, numbers: tuple[int, int], space: Space, light: Callable[[Floats], Floats]
) -> None:
    picture = decoded(with_nclx(STILL[name], *numbers))
    stored = decoded(with_nclx(STILL[name], 1, 13)).colour  # includes the codec's losses

    assert np.abs(stored.astype(int) - COLOUR).max() <= 4
    assert off(picture, in_srgb(stored, space, light)) <= 1.3


def test_a_profile_counts_more_than_code_points_in_avif() -> None:
    data = with_nclx(saved(COLOUR, "AVIF", icc_profile=P3_PROFILE, **BEST), 9, 16)

    assert read_header(BytesIO(data)).cicp is None
    assert off(decoded(data), in_srgb(COLOUR, P3, srgb)) <= 12
