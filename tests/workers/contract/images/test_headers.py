"""Headers of every format are parsed correctly, and no header can do harm."""

import random
import struct
import tempfile
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers itself
import pytest
from factories import (
    GifPart,
    box,
    cmyk_jpeg,
    gif,
    held,
    luma,
    photo,
    png,
    png_chunk,
    saved,
    tiff,
    transparency,
    without_jpeg_segment,
)
from PIL import Image

from workers.contract.errors import (
    AlphaNotStorable,
    ColourTooDeep,
    FrameMissing,
    GDSRError,
    ImageAnimated,
    ImageCorrupt,
    ImageMissing,
    ImageTooLarge,
    ImageUnsupported,
    ResultTooLarge,
)
from workers.contract.images.formats import (
    ColourKind,
    ImageFormat,
    ImageHeader,
    ResultFormat,
    check_header,
    check_result,
)
from workers.contract.images.headers import read_header
from workers.contract.images.jxl import JXL_BOXES

pillow_heif.register_heif_opener()  # the tests write HEIC; `pillow_jxl` registers itself

COLOUR = photo(20, 30)
GREY = luma(COLOUR)
RGBA = np.dstack((COLOUR, transparency(20, 30)))
LA = np.dstack((GREY, transparency(20, 30)))
CMYK = np.asarray(Image.fromarray(COLOUR).convert("CMYK"))
PALETTE = Image.fromarray(COLOUR).quantize(16)
BILEVEL = Image.fromarray(GREY).convert("1")
SECOND = [Image.fromarray(255 - COLOUR)]
DEEP = GREY.astype(int) * 257

ANIMATED_AVIF = saved(COLOUR, "AVIF", save_all=True, append_images=SECOND)
BMP_WITH_ALPHA = (
    b"BM"
    + struct.pack("<IHHI", 138, 0, 0, 122)
    + struct.pack("<IiiHHIIiiII", 108, 30, 20, 1, 32, 3, 2400, 0, 0, 0, 0)
    + struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    + bytes(52)
)


def header(data: bytes) -> ImageHeader:
    """Read from a real file: one in memory tolerates some wrong reads."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        return read_header(file)


def described(name: str, kind: str, bits: int = 8, *, alpha: bool = False) -> ImageHeader:
    return ImageHeader(
        format=ImageFormat(name),
        width=30,
        height=20,
        bits=bits,
        kind=ColourKind(kind),
        has_alpha=alpha,
        frames=1,
        # Both libraries write sRGB's primaries and curve.
        cicp=(1, 13) if name in ("avif", "heic") else None,
    )


STILL = {
    "JPEG": (saved(COLOUR, "JPEG"), described("jpeg", "colour")),
    "JPEG progressive": (saved(COLOUR, "JPEG", progressive=True), described("jpeg", "colour")),
    "JPEG grey": (saved(GREY, "JPEG"), described("jpeg", "grey")),
    "JPEG CMYK": (cmyk_jpeg(CMYK), described("jpeg", "cmyk")),
    "PNG RGB": (saved(COLOUR, "PNG"), described("png", "colour")),
    "PNG RGBA": (saved(RGBA, "PNG"), described("png", "colour", alpha=True)),
    "PNG RGB with tRNS": (
        saved(COLOUR, "PNG", transparency=(1, 2, 3)),
        described("png", "colour", alpha=True),
    ),
    "PNG 16-bit RGB": (png(COLOUR, bits=16, colour_type=2), described("png", "colour", 16)),
    "PNG grey": (saved(GREY, "PNG"), described("png", "grey")),
    "PNG grey and alpha": (saved(LA, "PNG"), described("png", "grey", alpha=True)),
    "PNG 1-bit": (saved(BILEVEL, "PNG"), described("png", "grey", 1)),
    "PNG 16-bit grey": (png(DEEP, bits=16, colour_type=0), described("png", "grey", 16)),
    "PNG palette": (saved(PALETTE, "PNG"), described("png", "palette")),
    "PNG palette with tRNS": (
        saved(PALETTE, "PNG", transparency=b"\0\x80"),
        described("png", "palette", alpha=True),
    ),
    "PNG said to be one frame": (
        png(COLOUR, bits=8, colour_type=2, chunks=[(b"acTL", struct.pack(">II", 1, 0))]),
        described("png", "colour"),
    ),
    "WebP lossy": (saved(COLOUR, "WEBP"), described("webp", "colour")),
    "WebP lossless": (saved(COLOUR, "WEBP", lossless=True), described("webp", "colour")),
    "WebP lossless alpha": (
        saved(RGBA, "WEBP", lossless=True),
        described("webp", "colour", alpha=True),
    ),
    "WebP lossy alpha": (saved(RGBA, "WEBP"), described("webp", "colour", alpha=True)),
    "WebP extended": (saved(COLOUR, "WEBP", exif=held(6)), described("webp", "colour")),
    "TIFF RGB": (saved(COLOUR, "TIFF"), described("tiff", "colour")),
    "TIFF RGBA": (saved(RGBA, "TIFF"), described("tiff", "colour", alpha=True)),
    "TIFF RGBX": (
        tiff(RGBA.tobytes(), height=20, width=30, bits=[8] * 4, photometric=2, tags=[(338, 0)]),
        replace(described("tiff", "colour"), has_other_channels=True),
    ),
    "TIFF grey": (saved(GREY, "TIFF", compression="tiff_lzw"), described("tiff", "grey")),
    "TIFF 16-bit, big-endian": (
        tiff(
            DEEP.astype(">u2").tobytes(), height=20, width=30, bits=[16], photometric=1, order=">"
        ),
        described("tiff", "grey", 16),
    ),
    "TIFF 16-bit RGB": (
        tiff(bytes(3600), height=20, width=30, bits=[16] * 3, photometric=2),
        described("tiff", "colour", 16),
    ),
    "TIFF CMYK": (saved(Image.fromarray(CMYK, "CMYK"), "TIFF"), described("tiff", "cmyk")),
    "TIFF palette": (saved(PALETTE, "TIFF"), described("tiff", "palette")),
    "BMP": (saved(COLOUR, "BMP"), described("bmp", "colour")),
    "BMP palette": (saved(PALETTE, "BMP"), described("bmp", "palette")),
    "BMP alpha": (BMP_WITH_ALPHA, described("bmp", "colour", alpha=True)),
    "AVIF": (saved(COLOUR, "AVIF"), described("avif", "colour")),
    "AVIF alpha": (saved(RGBA, "AVIF"), described("avif", "colour", alpha=True)),
    "AVIF grey": (saved(GREY, "AVIF"), described("avif", "grey")),
    "AVIF of 10 bits": (
        saved(COLOUR, "AVIF").replace(b"\3\x08\x08\x08", b"\3\x0a\x0a\x0a", 1),
        described("avif", "colour", 10),
    ),
    "GIF": (saved(PALETTE, "GIF"), described("gif", "palette")),
    "GIF with a clear colour": (
        saved(PALETTE, "GIF", transparency=3),
        described("gif", "palette", alpha=True),
    ),
    "GIF of one small frame": (
        gif(
            [GifPart(np.zeros((4, 5), np.uint8), left=2)],
            height=20,
            width=30,
            palette=np.zeros((256, 3), np.uint8),
        ),
        described("gif", "palette", alpha=True),
    ),
    "HEIC": (saved(COLOUR, "HEIF"), described("heic", "colour")),
    "HEIC alpha": (saved(RGBA, "HEIF"), described("heic", "colour", alpha=True)),
    "HEIC grey": (saved(GREY, "HEIF"), described("heic", "grey")),
    "HEIC turned": (saved(COLOUR, "HEIF", exif=held(6).tobytes()), described("heic", "colour")),
    "JPEG XL": (saved(COLOUR, "JXL"), described("jxl", "colour")),
    "JPEG XL alpha": (saved(RGBA, "JXL"), described("jxl", "colour", alpha=True)),
    "JPEG XL grey": (saved(GREY, "JXL"), described("jxl", "grey")),
    "JPEG XL grey and alpha": (saved(LA, "JXL"), described("jxl", "grey", alpha=True)),
    "JPEG XL in boxes": (saved(COLOUR, "JXL", use_container=True), described("jxl", "colour")),
    "JPEG XL of 16 bits": (
        saved(DEEP.astype(np.uint16), "JXL", lossless=True),
        described("jxl", "grey", 16),
    ),
    "AVIF turned": (saved(COLOUR, "AVIF", exif=held(6)), described("avif", "colour")),
}

ANIMATED = {
    "APNG": (saved(COLOUR, "PNG", save_all=True, append_images=SECOND), 2),
    "WebP": (saved(COLOUR, "WEBP", save_all=True, append_images=SECOND), 2),
    "TIFF of two pages": (saved(COLOUR, "TIFF", save_all=True, append_images=SECOND), 2),
    "GIF": (saved(COLOUR, "GIF", save_all=True, append_images=SECOND), 2),
    "AVIF": (ANIMATED_AVIF, None),
}

STRANGE = {
    "an AVIF film": box(b"ftyp", b"avis\0\0\0\0avis") + box(b"moov", bytes(100)),
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
    "an animated JPEG XL": bytes.fromhex("ff0a984041130088090804010025104b1247"),
    "a JPEG-LS picture": imagecodecs.jpegls_encode(GREY),
    "a PNG of an iOS app": b"\x89PNG\r\n\x1a\n" + png_chunk(b"CgBI", b"P\0 \2") + bytes(25),
    "a film, or a picture": box(b"ftyp", b"hevc\0\0\0\0msf1hevc") + box(b"moov", bytes(50)),
    "a film without a still": box(b"ftyp", b"msf1\0\0\0\0msf1heic") + box(b"moov", bytes(50)),
    "a Photoshop document": b"8BPS\0\1" + bytes(20),
    "a film": box(b"ftyp", b"isom\0\0\2\0isomiso2mp41") + box(b"moov", bytes(50)),
    "other inks than CMYK": tiff(
        bytes(24), height=2, width=3, bits=[8] * 4, photometric=5, tags=[(332, 2)]
    ),
    "signed or complex": tiff(
        bytes(6), height=2, width=3, bits=[8], photometric=1, tags=[(339, 2)]
    ),
    "a TIFF of 64 bits": tiff(bytes(48), height=2, width=3, bits=[64], photometric=1),
    "a JPEG of 12 bits": saved(GREY, "JPEG").replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"),
    "a web page": b"<!DOCTYPE html><html><body><svg></svg></body></html>",
    "not a picture": b"Dear Sir or Madam, please find enclosed no picture at all.",
}


@pytest.mark.parametrize(
    "start",
    [b"FUJIFILMCCD-RAW 0201", b"IIU\0\x18\0", b"IIRO\x08\0", box(b"ftyp", b"crx \0\0\0\1crx isom")],
    ids=["Fujifilm", "Panasonic", "Olympus", "Canon"],
)
def test_a_raw_file_is_called_that(start: bytes) -> None:
    with pytest.raises(ImageUnsupported, match="is a camera's raw file"):
        header(start + bytes(100))


@pytest.mark.parametrize("kind", STILL)
def test_a_header_describes_its_picture(kind: str) -> None:
    data, expected = STILL[kind]

    assert header(data) == expected


@pytest.mark.parametrize("kind", ANIMATED)
def test_several_frames_or_pages_are_refused(kind: str) -> None:
    data, frames = ANIMATED[kind]
    found = header(data)
    said = "several frames" if frames is None else f"{frames} frames .* `frame`, counted from 0"

    assert found.frames == frames
    with pytest.raises(ImageAnimated, match=said):
        check_header(found, max_pixels=1000)


@pytest.mark.parametrize("kind", ANIMATED)
def test_a_chosen_frame_is_accepted_unless_it_is_known_to_be_missing(kind: str) -> None:
    data, frames = ANIMATED[kind]

    for frame in (0, 1):
        found = read_header(BytesIO(data), frame=frame)
        check_header(found, max_pixels=1000, frame=frame)
        assert (found.width, found.height) == (30, 20)
    if frames is not None:
        with pytest.raises(FrameMissing, match="no frame 2: it has 2, counted from 0"):
            check_header(read_header(BytesIO(data), frame=2), max_pixels=1000, frame=2)


def test_a_single_picture_has_no_second_frame() -> None:
    found = header(saved(COLOUR, "PNG"))

    check_header(found, max_pixels=1000, frame=0)
    with pytest.raises(FrameMissing, match="no frame 1: it has 1, counted from 0"):
        check_header(found, max_pixels=1000, frame=1)


def test_each_page_of_a_tiff_has_its_own_header() -> None:
    small = Image.fromarray(GREY[:5, :7])
    pages = saved(COLOUR, "TIFF", save_all=True, append_images=[small])
    second = read_header(BytesIO(pages), frame=1)

    assert (second.width, second.height, second.kind) == (7, 5, ColourKind.GREY)


def test_more_frames_than_are_counted_are_several() -> None:
    part = GifPart(np.zeros((1, 1), np.uint8))
    few, many = (
        gif([part] * frames, height=1, width=1, palette=np.zeros((256, 3), np.uint8))
        for frames in (4096, 4097)
    )

    assert header(few).frames == 4096
    assert header(many).frames is None


def test_the_small_copy_that_scanners_add_is_no_second_page() -> None:
    plain = {"height": 20, "width": 30, "bits": [8], "photometric": 1}
    size = len(tiff(GREY.tobytes(), **plain))
    scanned = tiff(GREY.tobytes(), **plain, next_page=size)
    copy = struct.pack("<HHHIII", 1, 254, 4, 1, 1, 0)

    assert header(scanned + copy).frames == 1
    assert header(scanned + copy.replace(b"\xfe\0", b"\xfd\0")).frames == 2


@pytest.mark.parametrize("found", STRANGE)
def test_an_unsupported_format_is_named(found: str) -> None:
    with pytest.raises(ImageUnsupported, match=found):
        header(STRANGE[found])


def test_an_empty_file_is_a_missing_picture() -> None:
    with pytest.raises(ImageMissing):
        header(b"")


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    mislabelled = tmp_path / "photo.png"
    mislabelled.write_bytes(saved(COLOUR, "JPEG"))

    with mislabelled.open("rb") as file:
        assert read_header(file).format is ImageFormat.JPEG


def test_the_position_of_the_file_does_not_matter() -> None:
    file = BytesIO(saved(COLOUR, "PNG"))
    file.seek(50)

    assert read_header(file).width == 30


def test_a_jpeg_may_have_megabytes_of_metadata_before_its_size() -> None:
    jpeg = saved(COLOUR, "JPEG")
    metadata = (b"\xff\xe2\xff\xff" + bytes(65533)) * 200

    assert header(jpeg[:2] + metadata + jpeg[2:]).width == 30


@pytest.mark.parametrize("kind", STILL)
def test_a_header_that_is_cut_off_is_refused(kind: str) -> None:
    data, expected = STILL[kind]
    for length in range(1, min(len(data), 700)):
        try:
            found = header(data[:length])
        except (ImageCorrupt, ImageUnsupported):
            continue
        assert (found.format, found.width, found.height) == (expected.format, 30, 20)


@pytest.mark.parametrize(
    "data",
    [
        png(np.zeros((1, 1)), bits=8, colour_type=0).replace(b"\0\0\0\1" * 2, bytes(8)),
        struct.pack("<2sIHHIIiiHHI", b"BM", 99, 0, 0, 54, 40, 0, 5, 1, 24, 0) + bytes(20),
        saved(COLOUR, "JPEG").replace(struct.pack(">HH", 20, 30), struct.pack(">HH", 0, 30)),
        tiff(b"", height=0, width=3, bits=[8], photometric=1),
    ],
    ids=["PNG", "BMP", "JPEG", "TIFF"],
)
def test_a_side_without_pixels_is_refused(data: bytes) -> None:
    with pytest.raises(ImageCorrupt, match=r"\d+ x \d+"):
        header(data)


HOSTILE = {
    "JPEG of fill bytes": b"\xff\xd8" + b"\xff" * 10**6,
    "JPEG of empty segments": b"\xff\xd8" + b"\xff\xe0\0\0" * 10**6,
    "PNG of empty chunks": saved(GREY, "PNG")[:33] + png_chunk(b"aaaa", b"") * 10**5,
    "PNG with a chunk of 4 GB": saved(GREY, "PNG")[:33] + b"\xff" * 30,
    "TIFF whose page is its own successor": tiff(
        bytes(600), height=20, width=30, bits=[8], photometric=1, tags=[(254, 1)], next_page=608
    ),
    "TIFF of 65535 tags": b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65535 + 4),
    "TIFF with depths out of the file": saved(COLOUR, "TIFF").replace(
        struct.pack("<HHI", 258, 3, 3), struct.pack("<HHI", 258, 3, 2**31)
    ),
    "AVIF of empty boxes": box(b"ftyp", b"avif\0\0\0\0") + box(b"free", b"") * 10**5,
    "AVIF with a box of no size": box(b"ftyp", b"avif\0\0\0\0") + b"\0\0\0\1free" + bytes(8),
    "AVIF with a box of 2**63": box(b"ftyp", b"avif\0\0\0\0") + b"\0\0\0\1meta\x7f" + b"\xff" * 7,
    "JPEG XL whose stream begins after its end": JXL_BOXES + b"\0\0\0\x14jxlp\0",
    "JPEG XL of empty boxes": JXL_BOXES + box(b"free", b"") * 10**5,
    "JPEG XL with a box of 2**63": JXL_BOXES + b"\0\0\0\1free\x7f" + b"\xff" * 7,
    "GIF of blocks": b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\0" * 10**6,
    "GIF in tiny pieces": b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1\0" * 4 * 10**6,
    "GIF of frames": struct.pack("<6sHHBBB", b"GIF89a", 9, 9, 0, 0, 0)
    + struct.pack("<B4HBBB", 0x2C, 0, 0, 1, 1, 0, 2, 0) * 10**5,
    "AVIF of 1 MiB of properties": box(b"ftyp", b"avif\0\0\0\0")
    + box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", box(b"ispe", b"") * 130_000))),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_ends_soon(kind: str) -> None:
    start = time.process_time()

    try:
        header(HOSTILE[kind])
    except (ImageCorrupt, ImageUnsupported):
        pass
    else:
        assert kind in ("TIFF whose page is its own successor", "GIF of frames")
    assert time.process_time() - start < 2


def test_nothing_but_our_own_errors_comes_out_of_damaged_headers() -> None:
    dice = random.Random(20)
    bases = [data for data, _ in STILL.values()] + [data for data, _ in ANIMATED.values()]
    outcomes = set()
    for base in bases:
        for _ in range(400):
            damaged = bytearray(base)
            for _ in range(dice.choice((1, 2, 4, 12))):
                place = dice.randrange(min(len(damaged), 420))
                damaged[place] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
            if dice.random() < 0.3:
                del damaged[dice.randrange(len(damaged)) :]
            try:
                outcomes.add(type(header(bytes(damaged))))
            except GDSRError as refusal:
                outcomes.add(type(refusal))

    assert {ImageHeader, ImageCorrupt, ImageUnsupported} <= outcomes


def test_the_pixel_limit_is_inclusive() -> None:
    picture = described("png", "colour")

    check_header(picture, max_pixels=600)
    with pytest.raises(ImageTooLarge, match="30 x 20 = 600 pixels; the limit is 599"):
        check_header(picture, max_pixels=599)


def test_more_than_16_bits_are_refused() -> None:
    check_header(described("jxl", "colour", 16), max_pixels=600)
    with pytest.raises(ColourTooDeep, match="24 bits a channel; at most 16 are read"):
        check_header(described("jxl", "colour", 24), max_pixels=600)


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (8, 8), (300, 200), (320, 240), (1600, 900), (256, 600), (9000, 7)],
)
def test_every_way_in_which_a_jpeg_xl_writes_its_size_is_read(width: int, height: int) -> None:
    found = header(saved(np.zeros((height, width), np.uint8), "JXL", effort=1))

    assert (found.width, found.height) == (width, height)


def test_deep_grey_is_accepted() -> None:
    check_header(described("png", "grey", 16), max_pixels=600)


@pytest.mark.parametrize(("name", "side"), [("jpeg", 65_500), ("webp", 16_383), ("png", 2**31 - 1)])
def test_each_result_format_has_its_longest_side(name: str, side: int) -> None:
    result = ResultFormat(name)

    check_result(width=side, height=1, format=result, has_alpha=False)
    with pytest.raises(ResultTooLarge, match=f"{side:,}"):
        check_result(width=1, height=side + 1, format=result, has_alpha=False)


def test_a_tiff_ends_before_4_gib_whatever_its_pixels_are() -> None:
    check_result(width=25_000, height=20_000, format=ResultFormat.TIFF, has_alpha=True, bits=16)
    with pytest.raises(ResultTooLarge, match="500,000,000 pixels") as refused:
        check_result(width=25_001, height=20_000, format=ResultFormat.TIFF, has_alpha=False)
    assert refused.value.limits == {"max_result_pixels": 500_000_000}


def test_transparency_is_refused_for_jpeg_only() -> None:
    check_result(width=1, height=1, format=ResultFormat.PNG, has_alpha=True)
    check_result(width=1, height=1, format=ResultFormat.WEBP, has_alpha=True)
    with pytest.raises(AlphaNotStorable):
        check_result(width=1, height=1, format=ResultFormat.JPEG, has_alpha=True)


def test_result_formats_know_their_media_types() -> None:
    assert [result.media_type for result in ResultFormat] == [
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/avif",
        "image/tiff",
        "image/jxl",
    ]


def test_a_jpeg_without_its_marker_of_identity_is_still_one() -> None:
    assert header(without_jpeg_segment(saved(COLOUR, "JPEG"), 0xE0)).format is ImageFormat.JPEG
