"""Every kind of picture is decoded to the right pixels or refused with a reason."""

import logging
import random
import struct
import sys
import warnings
import zlib
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pytest
from factories import (
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    GifPart,
    Pixels,
    cmyk_jpeg,
    cmyk_profile,
    gif,
    grey_profile,
    held,
    luma,
    photo,
    png,
    png_chunk,
    rgb_profile,
    saved,
    srgb_decoded,
    srgb_encoded,
    tiff,
    transparency,
    without_jpeg_segment,
    ycck_jpeg,
)
from numpy.typing import ArrayLike
from PIL import Image, ImageFile
from pillow_heif import register_heif_opener
from pillow_jxl import Encoder

from workers.contract.errors import (
    FormatNotWritten,
    ImageAnimated,
    ImageCorrupt,
    ImageMissing,
    ImageTooLarge,
    ImageUnsupported,
)
from workers.contract.images.formats import ResultFormat
from workers.contract.images.headers import read_header
from workers.pictures.decode import decode
from workers.pictures.encode import encode
from workers.pictures.picture import Picture

register_heif_opener()  # the tests write HEIC; `pillow_jxl` registers itself

HEIGHT, WIDTH = 20, 30
COLOUR = photo(HEIGHT, WIDTH)
GREY = luma(COLOUR)
ALL_GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)
ALPHA = transparency(HEIGHT, WIDTH)
RGBA = np.dstack((COLOUR, ALPHA))
LA = np.dstack((GREY, ALPHA))
BEST = {"quality": 100, "subsampling": "4:4:4"}

#: 16-bit levels over the whole range.
DEEP = np.arange(0, 65536, 109)[: HEIGHT * WIDTH].reshape(HEIGHT, WIDTH)

CMYK = np.dstack((255 - COLOUR, np.full_like(GREY, 40)))
CMYK_COLOUR = np.rint((255.0 - CMYK[..., :3]) * (255 - CMYK[..., 3:]) / 255)

P3 = rgb_profile(P3_PRIMARIES)
SRGB = rgb_profile(SRGB_PRIMARIES)

PALETTE = np.random.default_rng(5).integers(0, 256, (256, 3), np.uint8)
PALETTE_ALPHA = np.arange(256, dtype=np.uint8)[::-1]


def from_p3(samples: ArrayLike) -> ArrayLike:
    """Convert samples of Display P3 to sRGB."""
    to_srgb = np.linalg.inv(SRGB_PRIMARIES) @ P3_PRIMARIES
    return srgb_encoded(srgb_decoded(np.asarray(samples)) @ to_srgb.T)


def untagged(data: bytes) -> ArrayLike:
    """Return the samples as they are stored."""
    return np.asarray(Image.open(BytesIO(data)))


class Meant(NamedTuple):
    """The bytes of a picture, and the pixels that decoding must give."""

    data: bytes
    colour: ArrayLike
    alpha: ArrayLike | None = None
    grey: bool = False
    tolerance: int = 0
    bits: int = 8


def indexed(bits: int, *, alpha: bool) -> Meant:
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2**bits
    chunks = [(b"PLTE", PALETTE[: 2**bits].tobytes())]
    if alpha:
        chunks.append((b"tRNS", PALETTE_ALPHA[: 2**bits].tobytes()))
    return Meant(
        png(indices, bits=bits, colour_type=3, chunks=chunks),
        PALETTE[indices],
        PALETTE_ALPHA[indices] if alpha else None,
    )


def grey_png(bits: int, *, clear: int | None = None, interlaced: bool = False) -> Meant:
    samples = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * (109 if bits == 16 else 1)
    samples %= 2**bits
    full = 65535 if bits == 16 else 255
    chunks = [] if clear is None else [(b"tRNS", struct.pack(">H", clear))]
    return Meant(
        png(samples, bits=bits, colour_type=0, chunks=chunks, interlaced=interlaced),
        np.rint(samples * full / (2**bits - 1)),
        None if clear is None else np.where(samples == clear, 0, full),
        grey=True,
        bits=16 if bits == 16 else 8,
    )


def strip(
    samples: ArrayLike, bits: tuple[int, ...], photometric: int, *, order: str = "<"
) -> bytes:
    """Return a TIFF of one strip of 8- or 16-bit samples."""
    layout = "u1" if bits[0] == 8 else f"{order}u2"
    data = np.asarray(samples).astype(layout).tobytes()
    return tiff(data, height=HEIGHT, width=WIDTH, bits=bits, photometric=photometric, order=order)


def packed_12_bits() -> Meant:
    levels = DEEP >> 4
    pairs = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    data = np.packbits(pairs).tobytes()
    return Meant(
        tiff(data, height=HEIGHT, width=WIDTH, bits=[12], photometric=1),
        np.rint(levels * 65535 / 4095),
        grey=True,
        bits=16,
    )


def one_clear_colour() -> Meant:
    samples = COLOUR.copy()
    samples[3:5, 7:9] = (1, 2, 3)
    samples[0, 0] = (1, 2, 4)
    clear = (samples == (1, 2, 3)).all(axis=-1)
    data = png(samples, bits=8, colour_type=2, chunks=[(b"tRNS", struct.pack(">3H", 1, 2, 3))])
    return Meant(data, samples, np.where(clear, 0, 255))


def deep_clear_colour() -> Meant:
    samples = np.random.default_rng(8).integers(0, 65536, (HEIGHT, WIDTH, 3))
    samples[2, 3] = (256, 512, 3)
    samples[0, 0] = (256, 512, 4)  # differs only in a low byte
    clear = (samples == (256, 512, 3)).all(axis=-1)
    chunks = [(b"tRNS", struct.pack(">3H", 256, 512, 3))]
    data = png(samples, bits=16, colour_type=2, chunks=chunks)
    return Meant(data, samples, np.where(clear, 0, 65535), bits=16)


def packed_jpeg(pixels: Pixels, orientation: int = 1) -> bytes:
    """Return a JPEG XL from which the original JPEG can be reconstructed."""
    jpeg = saved(pixels, "JPEG", exif=held(orientation), **BEST)
    encoder = Encoder(mode="RGB", lossless=False, quality=90, use_container=True, num_threads=0)
    packed: bytes = encoder(jpeg, pixels.shape[1], pixels.shape[0], jpeg_encode=True)
    return packed


def inks() -> Meant:
    """Paper and each full ink, with a profile in which inks only darken the paper."""
    samples = np.zeros((2, 5, 4), np.uint8)
    for ink in range(4):
        samples[:, ink + 1, ink] = 255
    lightness = np.array((100, 70, 60, 90, 0))
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    profile = cmyk_profile(dimming=(0.7, 0.6, 0.9, 0.0))
    data = saved(Image.fromarray(samples, "CMYK"), "TIFF", icc_profile=profile)
    return Meant(data, np.broadcast_to(srgb_encoded(light)[:, None], (2, 5, 3)), tolerance=1)


def bmp_with_alpha() -> bytes:
    start = struct.pack("<IHHI", 122 + 4 * GREY.size, 0, 0, 122)
    form = struct.pack("<IiiHHIIiiII", 108, WIDTH, -HEIGHT, 1, 32, 3, 4 * GREY.size, 0, 0, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return b"BM" + start + form + masks + bytes(52) + RGBA[..., [2, 1, 0, 3]].tobytes()


def bmp_with_p3() -> bytes:
    pixels = np.pad(COLOUR[..., ::-1].reshape(HEIGHT, -1), ((0, 0), (0, 2))).tobytes()
    start = struct.pack("<IHHI", 138 + len(pixels) + len(P3), 0, 0, 138)
    form = struct.pack("<IiiHHIIiiII", 124, WIDTH, -HEIGHT, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    place = struct.pack("<III", 124 + len(pixels), len(P3), 0)
    return b"BM" + start + form + bytes(16) + b"DEBM" + bytes(52) + place + pixels + P3


#: The start of an animated JPEG XL, which its library cannot write.
ANIMATED_JXL = bytes.fromhex(
    # pragma: allowlist nextline secret
    "ff0a984041130088090804010025104b124709a513049314145842dee42519f38ea4a4b6adede06c"
)
NUMBERS = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 7 % 256
INVERTED = 255 - GREY
BILEVEL = Image.fromarray(GREY).convert("1")
P3_JPEG = saved(COLOUR, "JPEG", icc_profile=P3, **BEST)
P3_HEIC = saved(COLOUR, "HEIF", quality=100, icc_profile=P3)
P3_AVIF = saved(COLOUR, "AVIF", icc_profile=P3, **BEST)
QUANTIZED = Image.fromarray(COLOUR).quantize(16)

READ = {
    "JPEG": Meant(saved(COLOUR, "JPEG", **BEST), COLOUR, tolerance=4),
    "JPEG grey": Meant(saved(GREY, "JPEG", quality=100), GREY, grey=True, tolerance=2),
    "JPEG progressive": Meant(saved(COLOUR, "JPEG", progressive=True, **BEST), COLOUR, tolerance=4),
    "JPEG CMYK of Adobe": Meant(cmyk_jpeg(CMYK), CMYK_COLOUR, tolerance=4),
    "JPEG CMYK without Adobe's marker": Meant(
        without_jpeg_segment(cmyk_jpeg(CMYK), 0xEE), CMYK_COLOUR, tolerance=4
    ),
    "JPEG YCCK": Meant(ycck_jpeg(CMYK), CMYK_COLOUR, tolerance=6),
    "JPEG with P3": Meant(P3_JPEG, from_p3(untagged(P3_JPEG)), tolerance=1),
    "JPEG with a second view": Meant(
        saved(COLOUR, "MPO", save_all=True, append_images=[QUANTIZED.convert("RGB")], **BEST),
        COLOUR,
        tolerance=4,
    ),
    "PNG RGB": Meant(saved(COLOUR, "PNG"), COLOUR),
    "PNG RGBA": Meant(saved(RGBA, "PNG"), COLOUR, ALPHA),
    "PNG opaque RGBA": Meant(saved(np.dstack((COLOUR, np.full_like(GREY, 255))), "PNG"), COLOUR),
    "PNG grey": Meant(saved(GREY, "PNG"), GREY, grey=True),
    "PNG grey and alpha": Meant(saved(LA, "PNG"), GREY, ALPHA, grey=True),
    "PNG 1-bit grey": grey_png(1),
    "PNG 2-bit grey": grey_png(2),
    "PNG 4-bit grey": grey_png(4),
    "PNG 16-bit grey": grey_png(16),
    "PNG 1-bit grey, white is clear": grey_png(1, clear=1),
    "PNG 2-bit grey, one level is clear": grey_png(2, clear=2),
    "PNG 4-bit grey, one level is clear": grey_png(4, clear=9),
    "PNG 8-bit grey, one level is clear": grey_png(8, clear=77),
    "PNG 16-bit grey, one level is clear": grey_png(16, clear=109 * 400),
    "PNG 16-bit RGB, one colour is clear": deep_clear_colour(),
    "PNG 16-bit grey with gamma 1.8": Meant(
        png(
            DEEP,
            bits=16,
            colour_type=0,
            chunks=[(b"iCCP", b"grey\0\0" + zlib.compress(grey_profile(1.8)))],
        ),
        257 * srgb_encoded((DEEP / 65535) ** (round(1.8 * 256) / 256)),
        grey=True,
        bits=16,
        tolerance=6,
    ),
    "PNG RGB, one colour is clear": one_clear_colour(),
    "PNG interlaced": Meant(png(COLOUR, bits=8, colour_type=2, interlaced=True), COLOUR),
    "PNG 1-bit grey, interlaced": grey_png(1, interlaced=True),
    **{f"PNG palette of {2**bits}": indexed(bits, alpha=False) for bits in (1, 2, 4, 8)},
    **{f"PNG palette of {2**bits}, tRNS": indexed(bits, alpha=True) for bits in (1, 2, 4, 8)},
    "PNG palette of greys": Meant(
        png(
            GREY,
            bits=8,
            colour_type=3,
            chunks=[(b"PLTE", bytes(v for v in range(256) for _ in range(3)))],
        ),
        GREY,
        grey=True,
    ),
    "PNG with sRGB's numbers": Meant(saved(COLOUR, "PNG", icc_profile=SRGB), COLOUR),
    "PNG grey with gamma 1.8": Meant(
        saved(GREY, "PNG", icc_profile=grey_profile(1.8)),
        srgb_encoded((GREY / 255) ** 1.8),
        grey=True,
        tolerance=1,
    ),
    "PNG of all greys of linear light": Meant(
        saved(ALL_GREYS, "PNG", icc_profile=grey_profile(1.0)),
        srgb_encoded(ALL_GREYS / 255),
        grey=True,
        tolerance=1,
    ),
    "PNG of one pixel": Meant(saved(COLOUR[:1, :1], "PNG"), COLOUR[:1, :1]),
    "PNG as large as allowed": Meant(
        saved(np.tile(COLOUR, (5, 4, 1)), "PNG"), np.tile(COLOUR, (5, 4, 1))
    ),
    "WebP": Meant(saved(COLOUR, "WEBP", quality=100), COLOUR, tolerance=40),
    "WebP lossless": Meant(saved(COLOUR, "WEBP", lossless=True), COLOUR),
    "WebP alpha": Meant(saved(RGBA, "WEBP", lossless=True, exact=True), COLOUR, ALPHA),
    "WebP with P3": Meant(
        saved(COLOUR, "WEBP", lossless=True, icc_profile=P3), from_p3(COLOUR), tolerance=1
    ),
    "TIFF": Meant(saved(COLOUR, "TIFF"), COLOUR),
    "TIFF LZW": Meant(saved(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR),
    "TIFF deflate": Meant(saved(COLOUR, "TIFF", compression="tiff_adobe_deflate"), COLOUR),
    "TIFF fax": Meant(
        saved(BILEVEL, "TIFF", compression="group4"), np.asarray(BILEVEL) * 255, grey=True
    ),
    "TIFF JPEG": Meant(
        saved(COLOUR, "TIFF", compression="jpeg", quality=100), COLOUR, tolerance=40
    ),
    "TIFF RGBA": Meant(saved(RGBA, "TIFF"), COLOUR, ALPHA),
    "TIFF grey": Meant(saved(GREY, "TIFF"), GREY, grey=True),
    "TIFF grey and alpha": Meant(saved(LA, "TIFF"), GREY, ALPHA, grey=True),
    "TIFF grey, white is zero": Meant(strip(INVERTED, (8,), 0), GREY, grey=True),
    "TIFF 16-bit grey": Meant(strip(DEEP, (16,), 1), DEEP, grey=True, bits=16),
    "TIFF 16-bit grey, white is zero": Meant(
        strip(65535 - DEEP, (16,), 0), DEEP, grey=True, bits=16
    ),
    "TIFF 16-bit grey, big-endian": Meant(
        strip(DEEP, (16,), 1, order=">"), DEEP, grey=True, bits=16
    ),
    "TIFF 16-bit grey, LZW": Meant(
        saved(DEEP.astype(np.uint16), "TIFF", compression="tiff_lzw"), DEEP, grey=True, bits=16
    ),
    "TIFF 12-bit grey": packed_12_bits(),
    "TIFF big-endian": Meant(strip(COLOUR, (8, 8, 8), 2, order=">"), COLOUR),
    "TIFF CMYK": Meant(saved(Image.fromarray(CMYK, "CMYK"), "TIFF"), CMYK_COLOUR, tolerance=1),
    "TIFF CMYK with profile": inks(),
    "TIFF palette": Meant(saved(QUANTIZED, "TIFF"), np.asarray(QUANTIZED.convert("RGB"))),
    "BMP": Meant(saved(COLOUR, "BMP"), COLOUR),
    "BMP palette": Meant(saved(QUANTIZED, "BMP"), np.asarray(QUANTIZED.convert("RGB"))),
    "BMP grey": Meant(saved(GREY, "BMP"), GREY, grey=True),
    "BMP with P3": Meant(bmp_with_p3(), from_p3(COLOUR), tolerance=1),
    "BMP alpha, top row first": Meant(bmp_with_alpha(), COLOUR, ALPHA),
    "GIF": Meant(saved(QUANTIZED, "GIF"), np.asarray(QUANTIZED.convert("RGB"))),
    "GIF of greys": Meant(saved(GREY, "GIF"), GREY, grey=True),
    "GIF interlaced": Meant(
        gif([GifPart(NUMBERS, interlaced=True)], height=HEIGHT, width=WIDTH, palette=PALETTE),
        PALETTE[NUMBERS],
    ),
    "GIF with colours of its frame": Meant(
        gif([GifPart(NUMBERS, palette=PALETTE)], height=HEIGHT, width=WIDTH), PALETTE[NUMBERS]
    ),
    "GIF, one colour is clear": Meant(
        gif([GifPart(NUMBERS, clear=7)], height=HEIGHT, width=WIDTH, palette=PALETTE),
        PALETTE[NUMBERS],
        np.where(NUMBERS == 7, 0, 255),
    ),
    "GIF of one small frame": Meant(
        gif([GifPart(NUMBERS[:9, :8], left=5, top=3)], height=HEIGHT, width=WIDTH, palette=PALETTE),
        np.pad(PALETTE[NUMBERS[:9, :8]], ((3, HEIGHT - 12), (5, WIDTH - 13), (0, 0))),
        np.pad(np.full((9, 8), 255), ((3, HEIGHT - 12), (5, WIDTH - 13))),
    ),
    "HEIC": Meant(saved(COLOUR, "HEIF", quality=100, chroma=444), COLOUR, tolerance=8),
    "HEIC alpha": Meant(saved(RGBA, "HEIF", quality=-1, chroma=444), COLOUR, ALPHA, tolerance=8),
    "HEIC grey": Meant(saved(GREY, "HEIF", quality=100), GREY, grey=True, tolerance=2),
    "HEIC of odd sides": Meant(
        saved(COLOUR[:19, :29], "HEIF", quality=100, chroma=444), COLOUR[:19, :29], tolerance=8
    ),
    "HEIC with P3": Meant(P3_HEIC, from_p3(untagged(P3_HEIC)), tolerance=1),
    "JPEG XL": Meant(saved(COLOUR, "JXL", quality=98), COLOUR, tolerance=40),
    "JPEG XL lossless": Meant(saved(COLOUR, "JXL", lossless=True), COLOUR),
    "JPEG XL alpha": Meant(saved(RGBA, "JXL", lossless=True), COLOUR, ALPHA),
    "JPEG XL grey": Meant(saved(GREY, "JXL", lossless=True), GREY, grey=True),
    "JPEG XL grey and alpha": Meant(saved(LA, "JXL", lossless=True), GREY, ALPHA, grey=True),
    "JPEG XL in boxes": Meant(saved(COLOUR, "JXL", lossless=True, use_container=True), COLOUR),
    "JPEG XL whose EXIF says that it is turned": Meant(
        saved(COLOUR, "JXL", lossless=True, exif=held(6).tobytes()), COLOUR
    ),
    "JPEG XL of a JPEG": Meant(packed_jpeg(COLOUR), COLOUR, tolerance=4),
    "AVIF": Meant(saved(COLOUR, "AVIF", **BEST), COLOUR, tolerance=4),
    "AVIF alpha": Meant(saved(RGBA, "AVIF", **BEST), COLOUR, ALPHA, tolerance=4),
    "AVIF grey": Meant(saved(GREY, "AVIF", quality=100), GREY, grey=True, tolerance=2),
    "AVIF with P3": Meant(P3_AVIF, from_p3(untagged(P3_AVIF)), tolerance=1),
}


def decoded(data: bytes, *, max_pixels: int = 20 * HEIGHT * WIDTH) -> Picture:
    return decode(data, max_pixels=max_pixels)


def check(picture: Picture, meant: Meant) -> None:
    colour = np.asarray(meant.colour)
    if colour.ndim == 2:
        colour = np.stack((colour,) * 3, axis=-1)
    assert picture.bits == meant.bits
    assert picture.colour.shape == colour.shape
    off = np.abs(picture.colour.astype(int) - np.rint(colour)).max()
    assert off <= meant.tolerance
    assert picture.grey == meant.grey
    if meant.grey:
        assert (picture.colour == picture.colour[..., :1]).all()
    if meant.alpha is None:
        assert picture.alpha is None
    else:
        assert picture.alpha is not None
        assert picture.alpha.dtype == picture.colour.dtype
        assert np.array_equal(picture.alpha, np.asarray(meant.alpha))


@pytest.mark.parametrize("kind", READ)
def test_a_picture_becomes_the_pixels_that_it_means(kind: str) -> None:
    meant = READ[kind]

    check(decoded(meant.data), meant)


@pytest.mark.parametrize("kind", READ)
def test_transparency_is_announced_by_the_header(kind: str) -> None:
    meant = READ[kind]

    announced = meant.alpha is not None or kind == "PNG opaque RGBA"
    assert read_header(BytesIO(meant.data)).has_alpha == announced


STORED = {
    1: COLOUR,
    2: COLOUR[:, ::-1],
    3: np.rot90(COLOUR, 2),
    4: COLOUR[::-1],
    5: COLOUR.swapaxes(0, 1),
    6: np.rot90(COLOUR),
    7: np.rot90(COLOUR, 2).swapaxes(0, 1),
    8: np.rot90(COLOUR, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("JPEG", BEST, 4),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("AVIF", BEST, 4),
        ("HEIF", {"quality": 100, "chroma": 444}, 8),
    ],
    ids=["JPEG", "PNG", "WebP", "TIFF", "TIFF LZW", "AVIF", "HEIC"],
)
def test_a_picture_is_turned_upright(
    name: str, options: dict[str, object], tolerance: int, orientation: int
) -> None:
    pixels = np.ascontiguousarray(STORED[orientation])
    data = saved(pixels, name, exif=held(orientation).tobytes(), **options)

    check(decoded(data), Meant(data, COLOUR, tolerance=tolerance))


@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_that_was_packed_is_turned_upright(orientation: int) -> None:
    data = packed_jpeg(np.ascontiguousarray(STORED[orientation]), orientation)

    check(decoded(data), Meant(data, COLOUR, tolerance=4))


def test_dots_per_inch_turn_with_the_picture() -> None:
    upright = saved(COLOUR, "JPEG", dpi=(300, 150))
    turned = saved(COLOUR, "JPEG", dpi=(300, 150), exif=held(6))

    assert decoded(upright).dpi == (300, 150)
    assert decoded(turned).dpi == (150, 300)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "BMP"])
def test_dots_per_inch_are_read(name: str) -> None:
    assert decoded(saved(COLOUR, name, dpi=(72, 300))).dpi == (72, 300)
    assert decoded(saved(COLOUR, name)).dpi is None or name == "BMP"


@pytest.mark.parametrize(("unit", "dots"), [(2, 300), (3, 762)])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "JXL"])
def test_dots_per_inch_are_read_from_exif_where_nothing_else_has_them(
    name: str, unit: int, dots: int
) -> None:
    exif = Image.Exif()
    exif.update({0x011A: 300.0, 0x011B: 300.0, 0x0128: unit})

    assert decoded(saved(COLOUR, name, exif=exif.tobytes())).dpi == (dots, dots)


@pytest.mark.parametrize(
    "profile",
    [b"no profile at all" * 20, P3[:200], grey_profile(1.8), cmyk_profile(dimming=(1, 1, 1, 0))],
    ids=["rubbish", "cut off", "for grey", "for CMYK"],
)
def test_a_profile_that_does_not_fit_is_ignored_with_a_warning(
    profile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        picture = decoded(saved(COLOUR, "PNG", icc_profile=profile))

    assert np.array_equal(picture.colour, COLOUR)
    assert "ignored" in caplog.text


def test_broken_exif_does_not_spoil_the_picture() -> None:
    data = saved(COLOUR, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")

    assert np.array_equal(decoded(data).colour, COLOUR)


def test_a_long_comment_does_not_spoil_the_picture() -> None:
    data = saved(COLOUR, "PNG")
    comment = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10 * 2**20)))

    assert np.array_equal(decoded(data[:33] + comment + data[33:]).colour, COLOUR)


REFUSED = {
    "nothing": (b"", ImageMissing),
    "random bytes": (random.Random(3).randbytes(500), ImageUnsupported),
    "animated GIF": (
        saved(QUANTIZED, "GIF", save_all=True, append_images=[BILEVEL]),
        ImageAnimated,
    ),
    "animated JPEG XL": (ANIMATED_JXL, ImageUnsupported),
    "PDF": (saved(COLOUR, "PDF"), ImageUnsupported),
    "EPS": (saved(COLOUR, "EPS"), ImageUnsupported),
    "PSD": (b"8BPS\0\1" + bytes(30), ImageUnsupported),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", ImageUnsupported),
    "APNG": (saved(COLOUR, "PNG", save_all=True, append_images=[QUANTIZED]), ImageAnimated),
    "animated WebP": (saved(COLOUR, "WEBP", save_all=True, append_images=[BILEVEL]), ImageAnimated),
    "TIFF of two pages": (
        saved(GREY, "TIFF", save_all=True, append_images=[BILEVEL]),
        ImageAnimated,
    ),
    "bomb": (
        png(np.zeros((1, 1)), bits=8, colour_type=0).replace(
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)),
        ),
        ImageTooLarge,
    ),
    "one row too many": (saved(np.zeros((20 * HEIGHT + 1, WIDTH), np.uint8), "PNG"), ImageTooLarge),
    "PNG with too few rows": (
        png(COLOUR[:-1], bits=8, colour_type=2).replace(
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT - 1, 8, 2, 0, 0, 0)),
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)),
        ),
        ImageCorrupt,
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_pictures_are_refused(kind: str) -> None:
    data, refusal = REFUSED[kind]

    with pytest.raises(refusal):
        decoded(data)


@pytest.mark.parametrize(
    "kind",
    ["JPEG", "JPEG progressive", "PNG RGB", "PNG interlaced", "WebP", "WebP lossless", "TIFF LZW",
     "TIFF", "BMP", "AVIF", "GIF", "GIF interlaced",
     "HEIC", "JPEG XL", "JPEG XL lossless", "JPEG XL of a JPEG"],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.98, 0.7, 0.4])
def test_a_picture_that_is_cut_off_is_corrupt(kind: str, share: float) -> None:
    data = READ[kind].data

    with pytest.raises(ImageCorrupt):
        decoded(data[: int(len(data) * share)])


def test_the_process_is_left_as_it_was() -> None:
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    decoded(saved(COLOUR, "PNG"))
    with pytest.raises(ImageCorrupt):
        decoded(saved(COLOUR, "PNG")[:-30])

    assert list(warnings.filters) == filters
    assert limit == Image.MAX_IMAGE_PIXELS
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(("kind", "library"), [("HEIC", "pillow_heif"), ("JPEG XL", "pillow_jxl")])
def test_without_its_library_a_format_is_refused(
    kind: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed

    with pytest.raises(ImageUnsupported, match=f"a {kind} picture, for which no library"):
        decoded(READ[kind].data)


def test_without_its_library_no_jpeg_xl_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)

    with pytest.raises(FormatNotWritten):
        encode(Picture(colour=COLOUR), format=ResultFormat.JXL, quality=90)
