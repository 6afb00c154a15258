"""Warnings name the parts of a picture that are ignored; rare kinds are read."""

import re
import struct
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers itself
import pytest
from factories import (
    P3_PRIMARIES,
    box,
    cmyk_jpeg,
    cmyk_profile,
    grey_profile,
    luma,
    photo,
    png,
    rgb_profile,
    saved,
)
from numpy.typing import ArrayLike
from PIL import Image

from workers.contract.errors import ImageCorrupt, ImageUnsupported
from workers.contract.images.formats import ResultFormat
from workers.contract.images.headers import read_header
from workers.contract.images.options import PictureChoices
from workers.pictures.decode import decode
from workers.pictures.encode import encode
from workers.pictures.finish import preprocess
from workers.pictures.picture import Picture

pillow_heif.register_heif_opener()

HEIGHT, WIDTH = 20, 30
COLOUR = photo(HEIGHT, WIDTH)
GREY = luma(COLOUR)
GAIN_MAP = "left out the gain map: the result is of standard dynamic range"
OTHERS = "left out the other pictures of the file"
PRIMARY = "read the first picture: the one named as primary is missing"


def decoded(data: bytes) -> Picture:
    return decode(data, max_pixels=10_000)


# Gain maps


def segment(body: bytes) -> bytes:
    return b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body


def with_item(data: bytes, kind: bytes, *, flags: int = 0) -> bytes:
    """Add an item without a location to an AVIF or HEIC."""
    info = box(b"infe", bytes((2, 0, 0, flags)) + struct.pack(">HH", 77, 0) + kind + b"\0")
    start = data.index(b"iinf") - 4
    (length,) = struct.unpack_from(">I", data, start)
    out = bytearray(data[: start + length] + info + data[start + length :])
    struct.pack_into(">I", out, start, length + len(info))
    struct.pack_into(">H", out, start + 12, struct.unpack_from(">H", out, start + 12)[0] + 1)
    meta = out.index(b"meta") - 4
    struct.pack_into(">I", out, meta, struct.unpack_from(">I", out, meta)[0] + len(info))
    return moved(bytes(out), len(info))


def moved(data: bytes, by: int) -> bytes:
    """Move the location of the only picture by that many bytes."""
    out, at = bytearray(data), data.index(b"iloc") + 4
    version, sizes, base = out[at], out[at + 4], out[at + 5] >> 4
    assert sizes == 0x44, "offsets and lengths of 4 bytes"
    first = at + 8 + 2 + (2 if version else 0) + 2
    place = first if base else first + 2
    struct.pack_into(">I", out, place, struct.unpack_from(">I", out, place)[0] + by)
    return bytes(out)


XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-"
    b"syntax-ns#'><rdf:Description xmlns:hdrgm='http://ns.adobe.com/hdr-gain-map/1.0/' "
    b"hdrgm:Version='1.0'/></rdf:RDF></x:xmpmeta>"
)
HEIC, AVIF = saved(COLOUR, "HEIF", quality=90), saved(COLOUR, "AVIF", quality=90)
JXL = saved(COLOUR, "JXL", lossless=True, use_container=True)
APPLE = b"\0\0\0\0urn:com:apple:photo:2020:aux:hdrgainmap\0"


def with_auxiliary_type(data: bytes, kind: bytes) -> bytes:
    """Add an auxiliary-type property that belongs to no picture."""
    part = box(b"auxC", kind)
    start = data.index(b"ipco") - 4
    (length,) = struct.unpack_from(">I", data, start)
    out = bytearray(data[: start + length] + part + data[start + length :])
    for name in (b"ipco", b"iprp", b"meta"):
        at = out.index(name) - 4
        struct.pack_into(">I", out, at, struct.unpack_from(">I", out, at)[0] + len(part))
    return moved(bytes(out), len(part))


WITH_GAIN_MAP = {
    "Ultra HDR": saved(COLOUR, "JPEG", xmp=XMP),
    "JPEG of ISO 21496-1": saved(
        COLOUR, "JPEG", extra=segment(b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")
    ),
    "JPEG of an iPhone": saved(
        COLOUR, "JPEG", xmp=XMP.replace(b"hdrgm:Version", b"HDRGainMap:HDRGainMapVersion")
        .replace(b"xmlns:hdrgm", b"xmlns:HDRGainMap"),
    ),
    "HEIC": with_auxiliary_type(HEIC, APPLE),
    "AVIF with a tone map": with_item(AVIF, b"tmap"),
    "HEIC with a tone map": with_item(HEIC, b"tmap"),
    "JPEG XL": JXL + box(b"jhgm", bytes(9)),
}  # fmt: skip


@pytest.mark.parametrize("kind", WITH_GAIN_MAP)
def test_a_gain_map_is_left_out_with_a_warning(kind: str) -> None:
    picture = decoded(WITH_GAIN_MAP[kind])

    assert GAIN_MAP in picture.warnings
    assert np.abs(picture.colour.astype(int) - COLOUR).mean() < 6


@pytest.mark.parametrize(
    ("name", "warning"),
    [(b"jhgm", GAIN_MAP), (b"xml ", "left out XMP data of more than 65,000 bytes")],
)
def test_a_large_box_beside_the_pixels_of_a_jpeg_xl_is_left_out(name: bytes, warning: str) -> None:
    picture = decoded(JXL + box(name, b" " * 2**21))

    assert picture.warnings == (warning,)
    assert np.array_equal(picture.colour, decoded(JXL).colour)


@pytest.mark.parametrize("data", [HEIC, AVIF, JXL, saved(COLOUR, "JPEG")])
def test_without_a_gain_map_there_is_no_warning(data: bytes) -> None:
    assert decoded(data).warnings == ()


def test_the_still_picture_of_a_burst_is_read_with_a_warning() -> None:
    """Nokia's encoder writes the brand of a sequence first, and a still picture too."""
    burst = HEIC[:8] + b"msf1" + HEIC[12:]

    assert np.array_equal(decoded(burst).colour, decoded(HEIC).colour)
    assert decoded(burst).warnings == (OTHERS,)


def test_a_second_picture_in_a_heic_is_left_out_with_a_warning() -> None:
    two = pillow_heif.from_pillow(Image.fromarray(COLOUR))
    two.add_from_pillow(Image.fromarray(COLOUR[::-1].copy()))
    file = BytesIO()
    two.save(file, quality=-1, chroma=444)

    assert decoded(file.getvalue()).warnings == (OTHERS,)


@pytest.mark.parametrize("kind", ["alpha", "thumbnail", "tiles"])
def test_parts_of_a_heic_are_no_other_pictures(kind: str) -> None:
    pixels = np.dstack((COLOUR, COLOUR[..., 0])) if kind == "alpha" else COLOUR
    one = pillow_heif.from_pillow(Image.fromarray(pixels.repeat(8, axis=0).repeat(8, axis=1)))
    if kind == "thumbnail":
        one.info["thumbnails"] = [64]
    file = BytesIO()
    one.save(file, **({"tile_size": 64} if kind == "tiles" else {}))
    data = file.getvalue()

    assert data.count(b"infe") > 1
    assert decode(data, max_pixels=100_000).warnings == ()


# A primary picture that is missing


def naming(data: bytes, number: int) -> bytes:
    at = data.index(b"pitm") + 8
    return data[:at] + struct.pack(">H", number) + data[at + 2 :]


@pytest.mark.parametrize("data", [HEIC, AVIF, saved(COLOUR, "AVIF", xmp=XMP)])
def test_the_first_picture_is_read_where_the_primary_one_is_missing(data: bytes) -> None:
    wrong = decoded(naming(data, 99))

    assert np.array_equal(wrong.colour, decoded(data).colour)
    assert PRIMARY in wrong.warnings
    assert read_header(BytesIO(naming(data, 99))).width == WIDTH


def test_the_first_of_several_pictures_is_read_and_no_hidden_one() -> None:
    file, pictures = pillow_heif.HeifFile(), (COLOUR, photo(24, 36))
    for pixels in pictures:
        file.add_from_pillow(Image.fromarray(pixels))
    data = BytesIO()
    file.save(data, quality=90)
    found = decoded(naming(data.getvalue(), 99))

    assert found.colour.shape == COLOUR.shape
    hidden = bytearray(naming(data.getvalue(), 99))
    hidden[hidden.index(b"infe") + 7] |= 1
    assert decoded(bytes(hidden)).colour.shape == (24, 36, 3)


def test_a_first_picture_whose_number_does_not_fit_is_refused() -> None:
    data = bytearray(naming(saved(COLOUR, "AVIF"), 99))
    boxes = (b"meta", b"iinf", b"infe"), (b"meta", b"iprp", b"ipma")
    for path, version, offset in zip(boxes, (3, 1), (8, 12), strict=True):
        start = data.index(path[-1])
        data[start + 4] = version  # numbers of 32 bits
        data[start + offset : start + offset + 2] = struct.pack(">I", 2**16)
        for name in path:
            at = data.index(name) - 4
            struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + 2)

    assert read_header(BytesIO(data)).width == WIDTH
    with pytest.raises(ImageCorrupt):
        decoded(bytes(data))


def test_without_any_picture_it_is_refused() -> None:
    with pytest.raises(ImageCorrupt, match="no size"):
        decoded(naming(HEIC, 99).replace(b"hvc1", b"mime"))


# Profiles

PROFILES = {
    "rubbish": (b"no profile at all" * 20, "broken"),
    "cut off": (rgb_profile(P3_PRIMARIES)[:200], "broken"),
    "for grey": (grey_profile(1.8), "for GRAY"),
    "for CMYK": (cmyk_profile(dimming=(1, 1, 1, 0)), "for CMYK"),
}


@pytest.mark.parametrize("kind", PROFILES)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_an_ignored_profile_is_reported(name: str, kind: str) -> None:
    profile, words = PROFILES[kind]
    (warning,) = decoded(saved(COLOUR, name, icc_profile=profile)).warnings

    assert "ignored a" in warning
    assert words in warning


def test_a_space_that_is_no_text_does_not_get_into_the_warning_as_it_is() -> None:
    profile = bytearray(rgb_profile(P3_PRIMARIES))
    profile[16:20] = b"\x1b\x85\x9bm"  # ends a line, and begins the control sequence of a terminal
    (warning,) = decoded(saved(COLOUR, "PNG", icc_profile=bytes(profile))).warnings

    assert warning.isascii()
    assert warning.isprintable()


def test_an_ignored_cmyk_profile_is_reported() -> None:
    inks = np.dstack((255 - COLOUR, GREY))
    picture = decoded(cmyk_jpeg(inks, icc_profile=rgb_profile(P3_PRIMARIES)))

    assert picture.warnings == ("ignored a colour profile for RGB",)


def test_a_profile_of_colour_is_no_use_for_grey_and_the_other_way_round() -> None:
    assert decoded(saved(GREY, "PNG", icc_profile=rgb_profile(P3_PRIMARIES))).warnings == ()
    (warning,) = decoded(saved(GREY, "PNG", icc_profile=PROFILES["for CMYK"][0])).warnings
    assert warning == "ignored a colour profile for CMYK"


# JPEG and JPEG XL


@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_a_lossless_jpeg_is_read_to_the_bit(pixels: ArrayLike) -> None:
    data = bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), lossless=True))
    picture = decoded(data)
    channels = np.asarray(pixels).reshape(HEIGHT, WIDTH, -1)

    assert re.search(rb"\xff\xc3", data)
    assert np.array_equal(picture.colour[..., : channels.shape[2]], channels)


@pytest.mark.parametrize("bits", [12, 16])
def test_a_lossless_jpeg_of_more_bits_is_refused_in_true_words(bits: int) -> None:
    samples = np.full((HEIGHT, WIDTH), 2**bits - 1, np.uint16)

    with pytest.raises(ImageUnsupported, match=f"a JPEG of {bits} bits a channel"):
        decoded(bytes(imagecodecs.ljpeg_encode(samples, bitspersample=bits)))


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_jpeg_xl_of_floating_point_is_refused_in_true_words(kind: Any) -> None:
    data = bytes(imagecodecs.jpegxl_encode((COLOUR / 255).astype(kind), lossless=True))

    with pytest.raises(ImageUnsupported, match="a JPEG XL picture of floating-point samples"):
        decoded(data)


# Alpha that is opaque everywhere

OPAQUE = np.full((HEIGHT, WIDTH), 255, np.uint8)
RGBA, LA = np.dstack((COLOUR, OPAQUE)), np.dstack((GREY, OPAQUE))
DEEP = RGBA.astype(np.uint16) * 257
NUMBERS = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256
PALETTE = np.random.default_rng(5).integers(0, 256, (256, 3), np.uint8)
CLEAR_TO_NOBODY = [(b"PLTE", PALETTE.tobytes()), (b"tRNS", b"\xff" * 256)]
TABLED = png(NUMBERS, bits=8, colour_type=3, chunks=CLEAR_TO_NOBODY)
OPAQUE_KINDS = {
    "PNG": (saved(RGBA, "PNG"), COLOUR, 0),
    "PNG of 16 bits": (png(DEEP, bits=16, colour_type=6), COLOUR, 0),
    "PNG, grey": (saved(LA, "PNG"), GREY, 0),
    "PNG of a palette": (TABLED, PALETTE[NUMBERS], 0),
    "WebP": (saved(RGBA, "WEBP", lossless=True), COLOUR, 0),
    "TIFF": (saved(RGBA, "TIFF"), COLOUR, 0),
    "TIFF, grey": (saved(LA, "TIFF"), GREY, 0),
    "AVIF": (
        bytes(imagecodecs.avif_encode(RGBA, level=100, numthreads=1)), COLOUR, 4),
    "AVIF of 10 bits": (
        bytes(imagecodecs.avif_encode(DEEP >> 6, level=100, bitspersample=10, numthreads=1)),
        COLOUR, 4),
    "HEIC": (saved(RGBA, "HEIF", quality=100, chroma=444), COLOUR, 8),
    "JPEG XL": (saved(RGBA, "JXL", lossless=True), COLOUR, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPAQUE_KINDS)
def test_a_picture_that_is_opaque_everywhere_can_become_a_jpeg(kind: str) -> None:
    data, colour, tolerance = OPAQUE_KINDS[kind]
    picture = decoded(data)
    expected = np.asarray(colour).reshape(HEIGHT, WIDTH, -1)
    levels = picture.colour / (257 if picture.bits == 16 else 1)

    assert picture.alpha is None
    assert np.abs(levels[..., : expected.shape[2]] - expected).max() <= tolerance
    prepared = preprocess(picture, PictureChoices(), ResultFormat.JPEG)
    assert encode(prepared, format=ResultFormat.JPEG, quality=90).startswith(b"\xff\xd8")
