"""AVIF, HEIC and JPEG XL of more than 8 bits are read, and TIFFs that Pillow cannot read.

The expected values are computed from the samples that were written.
"""

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from factories import (
    P3_PRIMARIES,
    cmyk_profile,
    icc_profile,
    photo,
    rgb_profile,
    srgb_encoded,
    tiff,
    transparency,
)
from numpy.typing import NDArray
from PIL import Image

from workers.contract.errors import GDSRError, ImageCorrupt, ImageUnsupported
from workers.contract.images.headers import read_header
from workers.contract.images.options import ProfileMode
from workers.pictures.decode import decode
from workers.pictures.exif import read_exif
from workers.pictures.picture import Picture

HEIGHT, WIDTH = 20, 30
COLOUR, ALPHA = photo(HEIGHT, WIDTH), transparency(HEIGHT, WIDTH)
VALUES = np.random.default_rng(8).uniform(0, 1, (HEIGHT, WIDTH, 5))
DEEP = np.rint(VALUES * 65535).astype(np.uint16)
FULL = {"uint8": 255, "uint16": 65535, "uint32": 2**32 - 1}

Floats = NDArray[np.float64]


def decoded(data: bytes, icc: ProfileMode = ProfileMode.SRGB) -> Picture:
    return decode(data, max_pixels=HEIGHT * WIDTH, icc=icc)


def written(samples: NDArray[Any], photometric: Any, **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(
        file, samples, photometric=photometric, metadata=None, software=False, **options
    )
    return file.getvalue()


def as_levels(picture: Picture) -> Floats:
    """Return colour and alpha in [0, 1]."""
    planes = (picture.colour,) if picture.alpha is None else (picture.colour, picture.alpha)
    return np.dstack(planes) / np.iinfo(picture.colour.dtype).max


# TIFF

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "planes apart": {"planarconfig": "separate"},
    "BigTIFF": {"bigtiff": True},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">"},
    "big-endian": {"byteorder": ">"},
    "tiles": {"tile": (16, 16)},
    "tiles of planes apart": {"tile": (16, 16), "planarconfig": "separate"},
    "rows, deflated": {"rowsperstrip": 3, "compression": "adobe_deflate"},
    "deflated differences": {"rowsperstrip": 3, "compression": "adobe_deflate", "predictor": True},
    "Zstandard": {"compression": "zstd", "rowsperstrip": 7},
    "LZMA": {"compression": "lzma"},
    "packed bits": {"compression": "packbits"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["uint16", "uint32", "float16", "float32", "float64"])
def test_rgb_of_a_tiff_is_read_at_16_bits(kind: str, layout: str) -> None:
    samples = VALUES[..., :3].astype(kind) if kind[0] == "f" else None
    if samples is None:
        samples = (VALUES[..., :3] * FULL[kind]).astype(kind)
    options = LAYOUTS[layout]
    if options.get("planarconfig") == "separate":
        samples = np.moveaxis(samples, -1, 0)
    picture = decoded(written(samples, "rgb", **options))

    assert picture.bits == 16
    assert np.abs(as_levels(picture) - VALUES[..., :3]).max() <= (
        6e-4 if kind == "float16" else 1e-4
    )


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extra", ["assocalpha", "unassalpha", "unspecified"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_alpha_of_a_tiff_is_multiplied_straight_or_none(
    kind: str, channels: int, extra: str, planes: str
) -> None:
    values = np.dstack((VALUES[..., :channels], 0.2 + 0.8 * VALUES[..., 4:]))
    stored = values.copy()
    if extra == "assocalpha":
        stored[..., :channels] *= stored[..., channels:]
    samples = stored.astype(kind) if kind[0] == "f" else np.rint(stored * FULL[kind]).astype(kind)
    data = written(
        np.moveaxis(samples, -1, 0) if planes == "separate" else samples,
        "rgb" if channels == 3 else "minisblack",
        extrasamples=[extra],
        planarconfig=planes,
        compression="adobe_deflate",
    )
    picture = decoded(data)
    expected = np.dstack(
        (np.broadcast_to(values[..., :channels], (HEIGHT, WIDTH, 3)), values[..., -1])
    )

    assert picture.grey == (channels == 1)
    assert picture.bits == (8 if kind == "uint8" else 16)
    assert read_header(BytesIO(data)).has_alpha == (extra != "unspecified")
    if extra == "unspecified":
        assert picture.alpha is None
        expected = expected[..., :3]
    # Samples multiplied by a fifth keep a fifth of the steps.
    assert np.abs(as_levels(picture) - expected).max() <= (4 / 255 if kind == "uint8" else 1e-4)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("tagged", [False, True])
def test_inks_of_a_tiff_are_read(kind: str, *, alpha: bool, tagged: bool) -> None:
    values = VALUES[..., : 5 if alpha else 4]
    extra = ["unassalpha"] if alpha else None
    profile = cmyk_profile(dimming=(1.0, 1.0, 1.0, 0.0)) if tagged else None
    samples = np.rint(values * FULL[kind]).astype(kind)
    picture = decoded(
        written(samples, "separated", extrasamples=extra, planarconfig="contig", iccprofile=profile)
    )
    paper = 1 - values[..., :4]
    expected = paper[..., :3] * paper[..., 3:]
    if tagged:  # only black darkens, in steps of lightness
        lightness = 100 * paper[..., 3]
        light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
        expected = np.repeat(srgb_encoded(light)[..., None], 3, axis=-1) / 255

    assert picture.was_cmyk
    assert picture.bits == (8 if kind == "uint8" else 16)
    assert np.abs(as_levels(picture)[..., :3] - expected).max() <= (
        0.02 if tagged else 1.6 / 255 if kind == "uint8" else 2e-5
    )
    if alpha:
        assert np.abs(as_levels(picture)[..., 3] - values[..., 4]).max() <= 1 / 255


#: L*, a* and b* of patches, and sRGB by the formulas of CIE 15 under D50 (Bradford) and D65.
PATCHES = {
    "D50": [
        ((0, 0, 0), (0, 0, 0)),
        ((100, 0, 0), (255, 255, 255)),
        ((53.585, 0, 0), (128, 128, 128)),
        ((54.29, 80.81, 69.89), (255, 0, 0)),
        ((29.57, 68.30, -112.03), (0, 0, 255)),
        ((87.82, -79.27, 80.99), (0, 255, 0)),
    ],
    "D65": [
        ((53.24, 80.09, 67.20), (255, 0, 0)),
        ((32.30, 79.19, -107.86), (0, 0, 255)),
        ((87.73, -86.18, 83.18), (0, 255, 0)),
        ((53.585, 0, 0), (128, 128, 128)),
    ],
}


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("photometric", [8, 9])
def test_lab_of_a_tiff_becomes_srgb(kind: str, photometric: int) -> None:
    patches = PATCHES["D65" if kind == "float32" else "D50"]
    lab = np.array([[patch for patch, _ in patches]], np.float64)
    if kind == "float32":
        samples = lab.astype(kind)
    else:
        unit = FULL[kind] // 255 if kind == "uint8" else 256
        offset = 128 * unit if photometric == 9 else 0
        ab = np.rint(lab[..., 1:] * unit).astype(int) + offset
        level = np.rint(lab[..., :1] / 100 * FULL[kind]).astype(int)
        samples = (np.dstack((level, ab)) % (FULL[kind] + 1)).astype(kind)
    # Some writers leave the profile of the RGB that they converted.
    profile = rgb_profile(P3_PRIMARIES)
    data = written(samples, photometric, planarconfig="contig", iccprofile=profile)
    picture = decoded(data)
    expected = np.array([[srgb for _, srgb in patches]])

    assert decoded(data, ProfileMode.KEEP).profile is None
    assert picture.bits == (8 if kind == "uint8" else 16)
    # One step of 8-bit Lab is several of sRGB.
    assert np.abs(255 * as_levels(picture) - expected).max() <= (10 if kind == "uint8" else 1)


def test_webp_inside_a_tiff_is_read() -> None:
    picture = decoded(
        written(COLOUR, "rgb", compression="webp", compressionargs={"level": 100, "lossless": True})
    )

    assert np.array_equal(picture.colour, COLOUR)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_tiff_is_turned_upright_as_a_shallow_one_is(orientation: int) -> None:
    options = {"extratags": [(274, 3, 1, orientation, True)]}
    options |= {"resolution": (300, 150), "resolutionunit": 2}
    deep, shallow = (
        decoded(written(samples, "rgb", **options))
        for samples in (COLOUR.astype(np.uint16) * 257, COLOUR)
    )

    assert np.array_equal(deep.colour, shallow.colour.astype(int) * 257)
    assert deep.dpi == shallow.dpi == ((300, 150) if orientation < 5 else (150, 300))


def test_a_resolution_without_a_unit_is_in_inches() -> None:
    unit, page_number = (struct.pack("<HHI", tag, 3, 1) for tag in (296, 297))
    for samples in (COLOUR, COLOUR.astype(np.uint16) * 257):
        whole = written(samples, "rgb", resolution=(300, 150), resolutionunit=2)

        assert decoded(whole.replace(unit, page_number)).dpi == (300, 150)


def test_a_deep_tiff_keeps_what_is_said_about_it() -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><a>b</a></x:xmpmeta>"
    iptc = b"\x1c\x02\x78\0\x05Hello"
    tags = [
        (315, 2, 7, "Ansel A", True),
        (700, 1, len(xmp), xmp, True),
        (33723, 7, len(iptc), iptc, True),
    ]
    picture = decoded(
        written(DEEP[..., :3], "rgb", extratags=tags, iccprofile=rgb_profile(P3_PRIMARIES)),
        ProfileMode.KEEP,
    )
    exif = Image.Exif()
    exif.load(picture.metadata.exif or b"")

    assert exif[315] == "Ansel A"
    assert picture.metadata.xmp == xmp
    assert picture.metadata.iptc == iptc
    assert picture.profile == rgb_profile(P3_PRIMARIES)
    assert np.array_equal(picture.colour, DEEP[..., :3])


@pytest.mark.parametrize("samples", [COLOUR, DEEP[..., :3]], ids=["8 bits", "16 bits"])
def test_a_page_of_a_tiff_has_nothing_of_another_page(samples: NDArray[Any]) -> None:
    profile, file = rgb_profile(P3_PRIMARIES), BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for options in ({"iccprofile": profile, "resolution": (300, 300)}, {}):
            writer.write(samples, photometric="rgb", resolutionunit=2, metadata=None, **options)
    first, second = (decode(file.getvalue(), max_pixels=600, frame=page) for page in (0, 1))

    assert not np.array_equal(first.colour, samples)
    assert np.array_equal(second.colour, samples)
    assert first.dpi == (300, 300)
    assert second.dpi is None


REFUSED = {
    "plain YCbCr of reduced colour": (
        tiff(bytes(6), height=2, width=2, bits=[8] * 3, photometric=6, tags=[(530, 2)]),
        ImageUnsupported, "a YCbCr TIFF of a rare kind"),
    "24 bits": (
        tiff(bytes(18), height=2, width=3, bits=[24], photometric=1), ImageUnsupported, "24 bits"),
    "0 to 255 in floating point": (
        written(COLOUR.astype(np.float32), "rgb"), ImageUnsupported, "not from 0 to 1"),
    "no numbers": (written(np.full((4, 4, 3), np.nan, np.float32), "rgb"), ImageUnsupported, "not from"),  # noqa: E501
    "a Lab of no numbers": (
        written(np.full((4, 4, 3), np.nan, np.float32), 8, planarconfig="contig"),
        ImageCorrupt, "are not numbers"),
    "nine channels": (
        written(np.zeros((4, 4, 9), np.uint16), "rgb", planarconfig="contig"),
        ImageUnsupported, "many channels"),
    "three slices": (
        written(np.stack([COLOUR[..., 0]] * 3), "minisblack", volumetric=True),
        ImageUnsupported, "a TIFF of 3 slices in one page"),
    "a stack by ImageJ with one directory": (
        written(
            COLOUR[..., 0], "minisblack", description="ImageJ=1.54f\nimages=12\nslices=12\n"),
        ImageUnsupported, "a TIFF of 12 slices in one page"),
    "JPEG 2000 inside": (
        written(DEEP[..., :3], "rgb", compression="jpeg2000"), ImageUnsupported, "compression 34712"),  # noqa: E501
    "a Lab of JPEG": (
        written(COLOUR, 8, compression="jpeg"), ImageUnsupported, "a CIELAB TIFF of a rare kind"),
    "several depths": (
        tiff(bytes(48), height=2, width=3, bits=[16, 8, 16], photometric=2),
        ImageUnsupported, "different depths"),
    "YCbCr of 16 bits": (
        tiff(bytes(48), height=2, width=3, bits=[16] * 3, photometric=6),
        ImageUnsupported, "YCbCr"),
    "one channel of three": (
        tiff(bytes(12), height=2, width=3, bits=[16], photometric=2), ImageCorrupt, "channels"),
    "a short strip": (
        tiff(bytes(34), height=2, width=3, bits=[16] * 3, photometric=2), ImageCorrupt, "too early"),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_the_refusal_of_an_unsupported_tiff_says_why(kind: str) -> None:
    data, refusal, words = REFUSED[kind]

    with pytest.raises(refusal, match=words):
        decoded(data)


@pytest.mark.parametrize("kind", ["imagej", "ome", "shaped"])
def test_a_description_of_the_old_samples_is_not_kept(kind: str) -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file, **{kind: True}) as writer:
        writer.write(COLOUR, photometric="rgb", software="kept")
    exif = decoded(file.getvalue()).metadata.exif
    in_words = decoded(written(COLOUR, "rgb", description="kept")).metadata.exif

    assert exif is not None
    assert list(read_exif(exif).tags) == [305]
    assert in_words is not None
    assert read_exif(in_words).tags[270].data == b"kept\0"


@pytest.mark.parametrize("extras", [["unspecified"], ["unassalpha", "unspecified"]])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_channels_beyond_colour_and_alpha_are_left_out_with_a_warning(
    planes: str, extras: list[str]
) -> None:
    samples = np.dstack((COLOUR, *[ALPHA] * len(extras)))
    order = samples if planes == "contig" else np.moveaxis(samples, -1, 0).copy()
    picture = decoded(written(order, "rgb", planarconfig=planes, extrasamples=extras))

    assert picture.warnings == ("left out the channels beyond colour and transparency",)
    assert np.array_equal(picture.colour, COLOUR)
    assert (picture.alpha is not None) == (len(extras) == 2)


@pytest.mark.parametrize(
    "compression", ["adobe_deflate", "lzw", "zstd", "lzma", "packbits", None, "webp"]
)
def test_a_tiff_that_is_cut_off_is_refused_wherever_it_ends(compression: str | None) -> None:
    samples = COLOUR if compression == "webp" else DEEP[..., :3]
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:  # writes its directory first
        writer.write(
            samples, photometric="rgb", compression=compression, rowsperstrip=5, metadata=None
        )
    data = file.getvalue()
    last = tifffile.TiffFile(BytesIO(data)).pages[0].aspage()
    end = max(at + count for at, count in zip(last.dataoffsets, last.databytecounts, strict=True))
    for missing in (1, 40, 300):
        with pytest.raises(ImageCorrupt):
            decoded(data[: end - missing])


@pytest.mark.parametrize(
    ("tag", "value"),
    [(322, 2**20), (323, 2**20), (324, 2**31), (277, 60_000), (257, 2**31 - 1), (256, 2**31 - 1)],
)
def test_a_tiff_that_says_huge_numbers_takes_no_memory(tag: int, value: int) -> None:
    data = bytearray(written(DEEP[..., :3], "rgb", tile=(16, 16), compression="adobe_deflate"))
    (page,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, page)
    for at in range(page + 2, page + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<HII", data, at + 2, 4, 1, value)

    with pytest.raises(GDSRError):
        decoded(bytes(data))


def test_a_tiff_of_more_strips_than_any_needs_is_refused() -> None:
    rows = 2**18 + 1
    data = tiff(bytes(8), height=rows, width=1, bits=[16], photometric=1, tags=[(278, 1)])
    data = data.replace(struct.pack("<HHII", 278, 4, 1, rows), struct.pack("<HHII", 278, 4, 1, 1))

    with pytest.raises(GDSRError):
        decode(data, max_pixels=rows)


def test_a_part_of_a_tiff_that_is_larger_than_it_says_is_refused() -> None:
    large = imagecodecs.webp_encode(np.zeros((2000, 3000, 3), np.uint8), lossless=True)
    data = tiff(large, height=HEIGHT, width=WIDTH, bits=[8] * 3, photometric=2, tags=[(259, 50001)])

    with pytest.raises(ImageCorrupt):
        decoded(data)


# AVIF, HEIC and JPEG XL


def avif(samples: NDArray[np.uint16], bits: int) -> bytes:
    return bytes(imagecodecs.avif_encode(samples, level=100, bitspersample=bits, numthreads=1))


def jxl(samples: NDArray[np.uint16], bits: int) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(samples, lossless=True, bitspersample=bits))


def heic(samples: NDArray[np.uint16], bits: int) -> bytes:
    mode = {1: "I;16", 3: "RGB;16", 4: "RGBA;16"}[np.atleast_3d(samples).shape[2]]
    file = BytesIO()
    image = pillow_heif.from_bytes(mode, (WIDTH, HEIGHT), (samples << (16 - bits)).tobytes())
    was, pillow_heif.options.SAVE_HDR_TO_12_BIT = pillow_heif.options.SAVE_HDR_TO_12_BIT, bits == 12
    try:
        image.save(file, quality=-1, chroma=444, matrix_coefficients=0)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = was
    return file.getvalue()


CODECS: dict[str, Callable[[NDArray[np.uint16], int], bytes]] = {
    "AVIF": avif, "HEIC": heic, "JPEG XL": jxl,
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("codec", "bits"),
    [("AVIF", 10), ("AVIF", 12), ("HEIC", 10), ("HEIC", 12), ("JPEG XL", 10), ("JPEG XL", 12),
     ("JPEG XL", 16)],
)  # fmt: skip
def test_all_bits_are_read(codec: str, bits: int, channels: int) -> None:
    samples = DEEP[..., :channels] >> (16 - bits)
    data = CODECS[codec](samples[..., 0] if channels == 1 else samples, bits)
    header = read_header(BytesIO(data))
    picture = decoded(data, ProfileMode.KEEP)  # the files declare linear light
    expected = samples / (2**bits - 1)

    assert header.bits == bits
    assert header.has_alpha == (channels == 4)
    assert picture.bits == 16
    assert picture.grey == (channels == 1)
    assert np.abs(as_levels(picture)[..., :channels] - expected[..., :channels]).max() <= 2e-5


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_deep_avif_is_turned_upright(turn: int) -> None:
    samples = DEEP[..., :3] >> 6
    data = avif(samples, 10)
    association = data.index(b"ipma") + 4
    assert data[association + 4 : association + 8] == b"\0\0\0\1"
    turned = with_property(data, b"irot", bytes((turn,)))

    assert np.array_equal(decoded(turned, ProfileMode.KEEP).colour >> 6, np.rot90(samples, turn))


def with_property(data: bytes, name: bytes, body: bytes) -> bytes:
    """Add a property to an AVIF of one picture, before its pixels."""
    part = struct.pack(">I", 8 + len(body)) + name + body
    properties = data.index(b"ipco") - 4
    (length,) = struct.unpack_from(">I", data, properties)
    number, at = 0, properties + 8
    while at < properties + length:
        number, at = number + 1, at + struct.unpack_from(">I", data, at)[0]
    out = bytearray(data[:at] + part + data[at:])
    count = out.index(b"ipma") + 4 + 4 + 4 + 2
    out[count] += 1
    end = count + out[count]
    out = out[:end] + bytes((0x80 | (number + 1),)) + out[end:]
    grown = len(part) + 1
    for box in (b"ipco", b"ipma", b"iprp", b"meta"):
        start = out.index(box) - 4
        by = {b"ipco": len(part), b"ipma": 1}.get(box, grown)
        struct.pack_into(">I", out, start, struct.unpack_from(">I", out, start)[0] + by)
    place = out.index(b"iloc") + 4
    assert out[place : place + 6] == b"\0\0\0\0\x44\0", "version 0, offsets of 4 bytes"
    where = place + 8 + 2 + 2 + 2
    struct.pack_into(">I", out, where, struct.unpack_from(">I", out, where)[0] + grown)
    return bytes(out)


@pytest.mark.parametrize("codec", ["AVIF", "JPEG XL"])
def test_a_deep_picture_that_is_cut_off_is_refused(codec: str) -> None:
    data = CODECS[codec](DEEP[..., :3] >> 6, 10)
    for share in (0.98, 0.7, 0.4):
        with pytest.raises(ImageCorrupt):
            decoded(data[: int(len(data) * share)])


# Profiles


def in_a_table(light: Callable[[Floats], Floats]) -> bytes:
    """Return an ICC profile for RGB with a lookup table to Lab, built from `light`."""
    ramp = np.arange(256)
    clut = np.stack(np.meshgrid(*(np.linspace(0, 1, 9),) * 3, indexing="ij"), axis=-1)
    cells = np.rint(light(clut) * 255).astype(np.uint8)
    table = b"mft1\0\0\0\0\3\3\x09\0" + struct.pack(">9i", *(65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    table += (
        3 * ramp.astype(np.uint8).tobytes() + cells.tobytes() + 3 * ramp.astype(np.uint8).tobytes()
    )
    return icc_profile(b"scnrRGB Lab ", {b"A2B0": table}, version=2)


def test_a_profile_that_is_a_table_leaves_16_bits() -> None:
    """The table's grey axis is L*, so the expected greys are known."""
    greys = np.arange(0, 65536, 97)[: HEIGHT * WIDTH].reshape(HEIGHT, WIDTH).astype(np.uint16)

    def lightness(clut: Floats) -> Floats:
        neutral = np.full(clut.shape, 128 / 255)
        neutral[..., 0] = clut.mean(axis=-1)
        return neutral

    profile = in_a_table(lightness)
    data = written(np.dstack((greys,) * 3), "rgb", iccprofile=profile)
    picture = decoded(data)
    level = greys / 655.35
    light = np.where(level > 8, ((level + 16) / 116) ** 3, level / 903.3)
    expected = srgb_encoded(light) * 257

    assert picture.bits == 16
    assert np.unique(picture.colour[..., 1]).size > 500  # 8 bits would leave 256
    assert np.abs(picture.colour[..., 1] - expected).max() <= 257
    assert np.array_equal(decoded(data, ProfileMode.KEEP).colour[..., 0], greys)
    assert decoded(data, ProfileMode.KEEP).profile == profile


#: Lossless, 8x8; the samples are a ramp in PQ: from 0, or at 16 bits from 128 in steps of 256.
PQ = {
    8: (
        b"\xff\x0a\x41\x40\x40\x1e\x3d\x02\x08\x00\x01\x00\x9c\x00\x4b\x28\x36\x56\x1f\xbc"
        b"\x29\x28\x04\x48\x8a\xef\x4c\x31\xbc\x3a\x88\x9f\x84\xb6\x0b\x04\x10\x30\xf7\xf6"
        b"\xfa\xfc\x0e\x20\x80\x00\x02\x08\x20\x80\x00\x02\x00"
    ),
    16: (
        b"\xff\x0a\x41\xf0\x03\x90\x47\x8f\x08\x04\x01\x00\xac\x02\x4b\x38\x40\xb9\x4d\xa7"
        b"\xec\x0e\x0e\xbe\x3f\x24\x24\x14\x14\x94\x9c\xa0\x60\x64\x0c\x76\x28\xc6\xe0\x59"
        b"\x31\x38\x1a\x63\x15\x63\x85\xb3\x22\x62\x0c\xd6\x40\x0b\x31\xb8\x4b\x31\x38\x1a"
        b"\x83\xa5\x2f\x10\x40\x40\x01\x30\x2c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x19\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x00\x00\xb4\x53\xed\x19\xbb\xde\x7a\xef\xbd\xf7\xde\x7b"
        b"\xef\xbd\xf7\xde\x7b\xef\xbd\xf7\xde\x7b\xef\xbd\xf7\xde\x7b\xeb\xad\xb7\xde\x7a"
        b"\xeb\xad\xb7\xde\x7a\xeb\xad\xb7\xde\x85\x7b\x00\x80\x24\x81\xf6\x65\x13\x58\x3f"
        b"\x58\x21\x00\x36\x00"
    ),
}


@pytest.mark.parametrize("bits", PQ)
def test_a_jpeg_xl_of_high_dynamic_range_is_tone_mapped_by_its_library(bits: int) -> None:
    picture = decoded(PQ[bits])
    levels = picture.colour.astype(float) / (257 if picture.bits == 16 else 1)

    assert picture.bits == bits
    assert levels[0, 0].max() < 5
    assert 225 < levels[-1, -1].min() <= levels[-1, -1].max() < 250  # sRGB would give 190
