"""A truncated picture is refused, or on request decoded as far as its data goes."""

import struct
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from factories import GifPart, PngPart, apng, gif, held, photo, png, saved, transparency
from numpy.typing import NDArray
from PIL import Image

from workers.contract.errors import GDSRError, ImageCorrupt
from workers.contract.images.gif import gif_frames
from workers.contract.images.options import TruncatedMode
from workers.contract.images.tiff_and_avif import Source
from workers.pictures.decode import decode

HEIGHT, WIDTH = 96, 128
COLOUR, ALPHA = photo(HEIGHT, WIDTH), transparency(HEIGHT, WIDTH)
RGBA = np.dstack((COLOUR, ALPHA))
DEEP = COLOUR.astype(np.uint16) * 256 + 7
NUMBERS = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 7 % 256
PALETTE = np.random.default_rng(5).integers(0, 256, (256, 3), np.uint8)
WARNING = "filled what is missing: the picture ends too early"


def tiff(samples: NDArray[Any], **options: Any) -> bytes:
    """Return a TIFF with its directory first, and strips of 8 rows."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(samples, photometric="rgb", rowsperstrip=8, metadata=None, **options)
    return file.getvalue()


def bmp_of_fields() -> bytes:
    masks = struct.pack("<3I", 0xFF, 0xFF00, 0xFF0000)
    form = struct.pack("<IiiHHIIiiII", 40, WIDTH, -HEIGHT, 1, 32, 3, 0, 0, 0, 0, 0)
    pixels = np.dstack((COLOUR, np.zeros((HEIGHT, WIDTH), np.uint8))).tobytes()
    return struct.pack("<2sIHHI", b"BM", 66 + len(pixels), 0, 0, 66) + form + masks + pixels


#: The file, and whether its first rows are stored first and exactly.
KINDS: dict[str, tuple[bytes, bool]] = {
    "JPEG": (saved(COLOUR, "JPEG", quality=90), True),
    "JPEG, progressive": (saved(COLOUR, "JPEG", quality=90, progressive=True), False),
    "grey JPEG": (saved(COLOUR[..., 0], "JPEG"), True),
    "PNG": (saved(COLOUR, "PNG"), True),
    "PNG with alpha": (saved(RGBA, "PNG"), True),
    "interlaced PNG": (png(COLOUR, bits=8, colour_type=2, interlaced=True), False),
    "PNG of 16 bits": (png(DEEP, bits=16, colour_type=2), True),
    "PNG of a palette": (saved(Image.fromarray(COLOUR).quantize(64), "PNG"), True),
    "WebP": (saved(COLOUR, "WEBP", quality=90), True),
    "lossless WebP": (saved(COLOUR, "WEBP", lossless=True), True),
    "WebP with alpha": (saved(RGBA, "WEBP", quality=90), True),
    "GIF": (gif([GifPart(NUMBERS)], height=HEIGHT, width=WIDTH, palette=PALETTE), True),
    "TIFF": (tiff(COLOUR), True),
    "TIFF, LZW": (tiff(COLOUR, compression="lzw"), True),
    "TIFF, deflated": (tiff(COLOUR, compression="adobe_deflate", predictor=True), True),
    "TIFF of 16 bits": (tiff(DEEP, compression="adobe_deflate"), True),
    "TIFF of JPEGs": (tiff(COLOUR, compression="jpeg"), True),
    "BMP of fields": (bmp_of_fields(), True),
}  # fmt: skip

read = partial(decode, max_pixels=100_000)
filled = partial(read, truncated=TruncatedMode.FILL)


@pytest.mark.parametrize("share", [0.9, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_existing_part_is_read_on_request(kind: str, share: float) -> None:
    data, in_rows = KINDS[kind]
    whole, cut = read(data), data[: int(len(data) * share)]

    with pytest.raises(ImageCorrupt, match="too early; with truncated=fill"):
        read(cut)
    picture = filled(cut)
    assert picture.colour.shape == whole.colour.shape
    assert picture.bits == whole.bits
    assert picture.warnings == (WARNING,)
    if in_rows:
        top = slice(0, int(HEIGHT * (share - 0.35)))
        assert np.array_equal(picture.colour[top], whole.colour[top])
        if whole.alpha is not None and picture.alpha is not None:
            assert np.array_equal(picture.alpha[top], whole.alpha[top])
        assert not np.array_equal(picture.colour[-8:], whole.colour[-8:])
    else:  # a coarser picture
        off = np.abs(picture.colour.astype(float) - whole.colour).mean()
        assert 0 < off < 60


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_picture_is_the_same_on_request(kind: str) -> None:
    data, _ = KINDS[kind]

    assert np.array_equal(filled(data).colour, read(data).colour)
    assert filled(data).warnings == ()


def before_pixels(data: bytes) -> list[int]:
    """Return offsets at which a file ends in or after its header, before its first pixel."""
    if data.startswith(b"II"):
        first = tifffile.TiffFile(BytesIO(data)).pages[0].aspage().dataoffsets[0]
        return [first, first + 9]
    if data.startswith(b"BM"):
        return [66]
    if data.startswith(b"GIF"):
        first = next(gif_frames(Source(BytesIO(data)))).data[0]
        return [first + 1, first + 2]
    scan = data.index(b"\xff\xda")
    return [scan + 5, scan + 4 + data[scan + 3] - 2]


@pytest.mark.parametrize(
    "kind", ["JPEG", "JPEG, progressive", "grey JPEG", "TIFF, deflated", "BMP of fields", "GIF"]
)
def test_without_a_row_there_is_no_advice_to_fill(kind: str) -> None:
    data, _ = KINDS[kind]
    for end in before_pixels(data):
        for read_it in (read, filled):
            with pytest.raises(ImageCorrupt, match="it ends before its first row"):
                read_it(data[:end])


INKS = Image.fromarray(np.dstack((COLOUR, COLOUR[..., 0])), "CMYK")
JPEGS = {
    "baseline": saved(COLOUR, "JPEG"),
    "grey": saved(COLOUR[..., 0], "JPEG"),
    "inks": saved(INKS, "JPEG"),
    "progressive": saved(COLOUR, "JPEG", progressive=True),
    "with restarts": saved(COLOUR, "JPEG", restart_marker_rows=1),
    "upside down": saved(COLOUR, "JPEG", exif=held(3)),
    "with an appendix": saved(COLOUR, "JPEG") + b"\xff\xd8\xff\xe1" + bytes(99),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_of_fewer_rows_than_its_header_says_is_cut_off(kind: str) -> None:
    data = JPEGS[kind]
    size = data.index(struct.pack(">HH", HEIGHT, WIDTH))
    short = data[:size] + struct.pack(">H", 2 * HEIGHT) + data[size + 2 :]

    with pytest.raises(ImageCorrupt, match="too early; with truncated=fill"):
        read(short)
    picture = filled(short)
    assert picture.warnings == (WARNING,)
    known = slice(HEIGHT, None) if kind == "upside down" else slice(0, HEIGHT)
    off = np.abs(picture.colour[known].astype(int) - read(data).colour)[8:-8]
    assert off.max() <= 2  # beside the missing rows, colour is smoothed


@pytest.mark.parametrize("missing", [60, 300, 600])
@pytest.mark.parametrize("kind", ["baseline", "grey", "inks", "progressive"])
def test_a_jpeg_that_is_cut_off_may_have_an_end(kind: str, missing: int) -> None:
    cut = JPEGS[kind][:-missing] + b"\xff\xd9"

    with pytest.raises(ImageCorrupt, match="too early; with truncated=fill"):
        read(cut)
    assert filled(cut).warnings == (WARNING,)


@pytest.mark.parametrize("level", [127, 128])
@pytest.mark.parametrize("kind", [*JPEGS, "flat"])
def test_a_whole_jpeg_whose_last_rows_are_grey_is_read(kind: str, level: int) -> None:
    data = JPEGS.get(kind, JPEGS["baseline"])
    image = Image.open(BytesIO(data))
    image.paste((level,) * len(image.getbands()), (0, 0 if kind == "flat" else 64, WIDTH, HEIGHT))
    options = {"progressive": kind == "progressive", "restart_marker_rows": kind == "with restarts"}
    whole = saved(image, "JPEG", exif=image.getexif(), **options)

    assert read(whole).warnings == ()


def test_a_bmp_is_stored_from_below_and_is_filled_above() -> None:
    data = saved(COLOUR, "BMP")
    picture = filled(data[: len(data) // 2])

    assert np.array_equal(picture.colour[60:], COLOUR[60:])
    assert not picture.colour[:30].any()


def test_a_frame_that_is_cut_off_is_filled() -> None:
    parts = [GifPart(np.full((HEIGHT, WIDTH), 3)), GifPart(NUMBERS[:, ::-1])]
    data = gif(parts, height=HEIGHT, width=WIDTH, palette=PALETTE)
    parts_png = [PngPart(RGBA), PngPart(RGBA[::-1])]
    animated = apng(parts_png, height=HEIGHT, width=WIDTH)

    for cut, expected in (
        (data[:-4000], PALETTE[NUMBERS[:, ::-1]]), (animated[:-5000], COLOUR[::-1]),
    ):  # fmt: skip
        with pytest.raises(ImageCorrupt):
            read(cut, frame=1)
        picture = filled(cut, frame=1)
        assert np.array_equal(picture.colour[:20], expected[:20])
        assert picture.warnings == (WARNING,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_at_any_byte_gives_a_picture_or_a_refusal(kind: str) -> None:
    data, _ = KINDS[kind]
    ends = []
    for end in range(2, len(data), len(data) // 12):
        try:
            filled(data[:end])
        except GDSRError:
            continue
        ends.append(end)

    assert len(ends) >= 5


@pytest.mark.parametrize("name", ["AVIF", "HEIF", "JXL"])
def test_other_formats_stay_refused(name: str) -> None:
    import pillow_heif
    import pillow_jxl  # noqa: F401 - registers itself

    pillow_heif.register_heif_opener()
    data = saved(COLOUR, name)

    with pytest.raises(ImageCorrupt) as refused:
        filled(data[: len(data) * 2 // 3])
    assert "truncated" not in str(refused.value)


def test_damage_is_not_filled() -> None:
    data = bytearray(saved(COLOUR, "PNG"))
    data[len(data) // 2] ^= 1

    with pytest.raises(ImageCorrupt, match="checksum"):
        filled(bytes(data))
