"""Files that break a rule are read as in browsers, but truncated ones are refused."""

import struct
from io import BytesIO

import numpy as np
import pytest
from factories import (
    GifPart,
    PngPart,
    apng,
    gif,
    photo,
    png,
    saved,
    tiff,
    transparency,
)
from numpy.typing import ArrayLike
from PIL import Image

from workers.contract.errors import ImageCorrupt, ImageUnsupported
from workers.contract.images.headers import read_header
from workers.pictures.decode import decode
from workers.pictures.picture import Picture

HEIGHT, WIDTH = 48, 64
COLOUR = photo(HEIGHT, WIDTH)
PALETTE = np.random.default_rng(5).integers(0, 256, (256, 3), np.uint8)
NUMBERS = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 7 % 256


def decoded(data: bytes, frame: int | None = None) -> Picture:
    return decode(data, max_pixels=100_000, frame=frame)


# JPEG

JPEGS = {
    "baseline": saved(COLOUR, "JPEG", quality=90),
    "grey": saved(COLOUR[..., 0], "JPEG"),
    "progressive": saved(COLOUR, "JPEG", progressive=True),
    "progressive, many scans": saved(COLOUR, "JPEG", progressive=True, quality=100),
    "4:4:4": saved(COLOUR, "JPEG", quality=95, subsampling="4:4:4"),
    "with restarts": saved(COLOUR, "JPEG", restart_marker_blocks=2),
    "with a restart in each row": saved(COLOUR, "JPEG", restart_marker_rows=1, progressive=True),
}


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_its_end_is_read(kind: str, missing: int) -> None:
    whole = np.asarray(Image.open(BytesIO(JPEGS[kind])).convert("RGB"))

    assert np.array_equal(decoded(JPEGS[kind][:-missing]).colour, whole)


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_some_of_its_pixels_is_refused_wherever_it_ends(kind: str) -> None:
    data = JPEGS[kind]
    whole = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    start = data.index(b"\xff\xda") + 20
    read = []
    for end in range(start, len(data) - 2, 7):
        try:
            picture = decoded(data[:end])
        except ImageCorrupt:
            continue
        read.append(end)  # the last bits may be padding
        assert np.array_equal(picture.colour, whole)

    assert len(read) <= 1


def test_a_jpeg_that_is_cut_between_two_restarts_is_refused() -> None:
    data = JPEGS["with restarts"]
    places = [at for at in range(len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] < 0xD8]

    assert len(places) > 3
    for place in places:
        for end in (place, place + 2):
            with pytest.raises(ImageCorrupt):
                decoded(data[:end])


# PNG


@pytest.mark.parametrize("missing", [1, 4, 8, 12, 13, 16])
def test_a_png_without_its_end_is_read(missing: int) -> None:
    assert np.array_equal(decoded(saved(COLOUR, "PNG")[:-missing]).colour, COLOUR)


ANCILLARY = {
    b"pHYs": struct.pack(">IIB", 11811, 11811, 1),
    b"gAMA": struct.pack(">I", 100_000),
    b"cHRM": bytes(32),
    b"iCCP": b"rubbish\0\0",
    b"eXIf": b"II*\0",
    b"tRNS": struct.pack(">3H", *COLOUR[0, 0]),
}


@pytest.mark.parametrize("name", ANCILLARY)
def test_a_chunk_that_no_pixel_needs_is_dropped_with_a_warning_if_it_is_damaged(
    name: bytes,
) -> None:
    data = png(COLOUR, bits=8, colour_type=2, chunks=[(name, ANCILLARY[name])])
    at = data.index(name) + 4 + len(ANCILLARY[name])
    picture = decoded(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])

    assert np.array_equal(picture.colour, COLOUR)
    assert picture.alpha is None
    assert picture.warnings == (f"dropped a damaged {name.decode()} chunk",)


@pytest.mark.parametrize(
    ("colour_type", "name", "body"),
    [
        (2, b"pHYs", bytes(8)),
        (2, b"iCCP", b""),
        (2, b"iCCP", b"of another compression\0\1"),
        (0, b"tRNS", b"\0"),
        (2, b"tRNS", bytes(2)),
        (3, b"tRNS", bytes(257)),
    ],
)
def test_a_chunk_that_no_pixel_needs_is_dropped_with_a_warning_if_it_has_a_wrong_form(
    colour_type: int, name: bytes, body: bytes
) -> None:
    samples = COLOUR if colour_type == 2 else NUMBERS
    table = [(b"PLTE", PALETTE.tobytes())] if colour_type == 3 else []
    picture = decoded(png(samples, bits=8, colour_type=colour_type, chunks=[*table, (name, body)]))
    plain = decoded(png(samples, bits=8, colour_type=colour_type, chunks=table))

    assert np.array_equal(picture.colour, plain.colour)
    assert picture.alpha is None
    assert picture.warnings == (f"dropped a damaged {name.decode()} chunk",)


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_chunk_that_the_pixels_need_must_be_whole(name: bytes) -> None:
    data = png(NUMBERS, bits=8, colour_type=3, chunks=[(b"PLTE", PALETTE.tobytes())])
    at = data.index(name)
    (length,) = struct.unpack_from(">I", data, at - 4)
    checksum = at + 4 + length
    damaged = data[:checksum] + bytes((data[checksum] ^ 1,)) + data[checksum + 1 :]

    with pytest.raises(ImageCorrupt, match=f"checksum of its {name.decode()}"):
        decoded(damaged)


def test_an_animation_of_one_frame_is_shown_as_that_frame() -> None:
    frame = np.dstack((COLOUR[::-1], transparency(HEIGHT, WIDTH)))
    still = np.dstack((COLOUR, np.full((HEIGHT, WIDTH), 255)))
    separate = apng([PngPart(frame)], height=HEIGHT, width=WIDTH, still=still)
    shared = apng([PngPart(frame)], height=HEIGHT, width=WIDTH)

    for data in (separate, shared):
        assert np.array_equal(decoded(data).colour, COLOUR[::-1])
        assert np.array_equal(decoded(data).alpha, frame[..., 3])  # type: ignore[arg-type]


# GIF


@pytest.mark.parametrize("screen", [(0, 0), (0, WIDTH), (10, 10), (HEIGHT, WIDTH - 1)])
def test_a_gif_whose_screen_is_too_small_grows_to_its_first_frame(screen: tuple[int, int]) -> None:
    data = gif([GifPart(NUMBERS)], height=screen[0], width=screen[1], palette=PALETTE)
    header = read_header(BytesIO(data))

    assert (header.height, header.width, header.has_alpha) == (HEIGHT, WIDTH, False)
    assert np.array_equal(decoded(data).colour, PALETTE[NUMBERS])


def test_a_later_frame_of_a_gif_is_cut_at_the_edge_of_the_picture() -> None:
    first, second = np.full((20, 30), 3), NUMBERS[:15, :25]
    parts = [GifPart(first), GifPart(second, left=10, top=8), GifPart(second, left=30, top=0)]
    data = gif(parts, height=20, width=30, palette=PALETTE)
    expected = first.copy()
    expected[8:, 10:] = second[:12, :20]

    assert np.array_equal(decoded(data, 1).colour, PALETTE[expected])
    assert np.array_equal(decoded(data, 2).colour, PALETTE[expected])


# BMP


def bmp(
    pixels: bytes,
    *,
    bits: int,
    compression: int,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
    top_first: bool = False,
) -> bytes:
    """Return a BMP with a 40-byte header, or one of 108 bytes if there is an alpha mask."""
    size = 108 if len(masks) == 4 else 40
    beyond = struct.pack(f"<{len(masks)}I", *masks)
    beyond += bytes(size - 40 - len(beyond)) if size == 108 else b""
    start = 14 + 40 + len(beyond) + len(palette)
    height = -HEIGHT if top_first else HEIGHT
    form = struct.pack(
        "<IiiHHIIiiII", size, WIDTH, height, 1, bits, compression, len(pixels), 11811, 11811,
        len(palette) // 4, 0,
    )  # fmt: skip
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + (
        form + beyond + palette + pixels
    )


FIELDS = {
    "10 bits each": (32, (0x3FF00000, 0xFFC00, 0x3FF)),
    "8 bits, turned round": (32, (0xFF, 0xFF00, 0xFF0000)),
    "8 bits at the top": (32, (0xFF000000, 0xFF0000, 0xFF00)),
    "11, 11 and 10 bits": (32, (0xFFE00000, 0x1FFC00, 0x3FF)),
    "5, 6 and 5 bits": (16, (0xF800, 0x7E0, 0x1F)),
    "5 bits each": (16, (0x7C00, 0x3E0, 0x1F)),
    "4 bits each": (16, (0xF00, 0xF0, 0xF)),
    "3, 3 and 2 bits": (16, (0xE0, 0x1C, 0x3)),
}


def packed(samples: ArrayLike, bits: int, masks: tuple[int, ...]) -> tuple[bytes, ArrayLike]:
    """Return packed rows, bottom up, and the levels that they represent."""
    planes = np.moveaxis(np.asarray(samples), -1, 0).astype(np.int64)
    words, meant = np.zeros(planes[0].shape, np.int64), []
    for plane, mask in zip(planes, masks, strict=True):
        shift = (mask & -mask).bit_length() - 1
        full = mask >> shift
        level = np.rint(plane / 255 * full).astype(np.int64)
        words |= level << shift
        meant.append(np.rint(level * 255 / full))
    return words[::-1].astype(f"<u{bits // 8}").tobytes(), np.stack(meant, axis=-1)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_bmp_has_its_colours_wherever_its_fields_lie(kind: str) -> None:
    bits, masks = FIELDS[kind]
    pixels, meant = packed(COLOUR, bits, masks)
    picture = decoded(bmp(pixels, bits=bits, compression=3, masks=masks))

    assert np.abs(picture.colour - np.asarray(meant)).max() <= 1
    assert picture.alpha is None
    assert picture.dpi == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize(
    "kind",
    [(32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)), (16, (0xF00, 0xF0, 0xF, 0xF000))],
)
def test_a_bmp_has_the_transparency_that_its_fields_say(kind: tuple[int, tuple[int, ...]]) -> None:
    bits, masks = kind
    pixels, meant = packed(np.dstack((COLOUR, transparency(HEIGHT, WIDTH))), bits, masks)
    data = bmp(pixels, bits=bits, compression=3, masks=masks)
    picture = decoded(data)

    assert read_header(BytesIO(data)).has_alpha
    assert np.array_equal(picture.colour, np.asarray(meant)[..., :3])
    assert np.array_equal(picture.alpha, np.asarray(meant)[..., 3])  # type: ignore[arg-type]


def test_a_bmp_whose_alpha_is_all_empty_is_opaque() -> None:
    masks = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    pixels, _ = packed(np.dstack((COLOUR, np.zeros((HEIGHT, WIDTH)))), 32, masks)
    picture = decoded(bmp(pixels, bits=32, compression=3, masks=masks))

    assert picture.alpha is None
    assert np.array_equal(picture.colour, COLOUR)


def test_a_bmp_of_fields_that_is_cut_off_is_refused() -> None:
    pixels, _ = packed(COLOUR, 32, FIELDS["10 bits each"][1])

    with pytest.raises(ImageCorrupt, match="too early"):
        decoded(bmp(pixels[:-1], bits=32, compression=3, masks=FIELDS["10 bits each"][1]))
    with pytest.raises(ImageUnsupported):
        decoded(bmp(pixels, bits=24, compression=3, masks=FIELDS["10 bits each"][1]))


COLOURS = np.concatenate((PALETTE[:, ::-1], np.zeros((256, 1), np.uint8)), axis=1)


def runs(rows: ArrayLike) -> bytes:
    """Encode rows as RLE8 for a BMP, alternately in absolute mode and as runs of one."""
    codes = b""
    for number, row in enumerate(np.asarray(rows)[::-1].astype(np.uint8)):
        if number % 2:
            codes += b"".join(bytes((1, value)) for value in row)
        else:
            codes += bytes((0, len(row))) + row.tobytes() + b"\0" * (len(row) % 2)
        codes += b"\0\0"
    return codes + b"\0\1"


def test_a_bmp_of_runs_is_read() -> None:
    data = bmp(runs(NUMBERS), bits=8, compression=1, palette=COLOURS.tobytes())
    picture = decoded(data)

    assert np.array_equal(picture.colour, PALETTE[NUMBERS])
    assert picture.alpha is None
    with pytest.raises(ImageCorrupt, match="too early"):
        decoded(data[:-40])


def test_a_bmp_of_runs_of_four_bits_is_read() -> None:
    codes = b"".join(b"\x40\x12\0\0" for _ in range(HEIGHT - 1))  # 64 of 1, 2, 1, 2...
    codes += b"\0\x06\x34\x56\x70\0" + b"\x3a\x99\0\0\0\1"  # the top: 3 4 5 6 7 0, then 58 of 9
    picture = decoded(bmp(codes, bits=4, compression=2, palette=COLOURS[:16].tobytes()))
    expected = np.tile((1, 2), (HEIGHT, WIDTH // 2))
    expected[0] = [3, 4, 5, 6, 7, 0] + [9] * 58

    assert np.array_equal(picture.colour, PALETTE[expected])


def test_pixels_that_a_run_length_bmp_skips_are_transparent() -> None:
    codes = b"\x0a\x05" + b"\0\2\x05\x03" + b"\x04\x06" + b"\0\1"
    picture = decoded(bmp(codes, bits=8, compression=1, palette=COLOURS.tobytes()))
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[-1, :10] = alpha[-4, 15:19] = 255

    assert np.array_equal(picture.alpha, alpha)  # type: ignore[arg-type]
    assert (picture.colour[-1, :10] == PALETTE[5]).all()
    assert (picture.colour[-4, 15:19] == PALETTE[6]).all()


@pytest.mark.parametrize("codes", [b"\x0a", b"\0\x06\1\2", b"\0\2", b"\0\2\x05"])
def test_a_bmp_of_runs_that_is_cut_off_anywhere_is_refused(codes: bytes) -> None:
    with pytest.raises(ImageCorrupt, match="ends too early"):
        decoded(bmp(codes, bits=8, compression=1, palette=COLOURS.tobytes()))


# TIFF


@pytest.mark.parametrize("unit", [1, 257])
def test_a_palette_of_a_tiff_is_read_in_8_and_in_16_bits(unit: int) -> None:
    data = tiff(
        NUMBERS.astype(np.uint8).tobytes(), height=HEIGHT, width=WIDTH, bits=[8], photometric=3
    )
    data = with_colours(data, (PALETTE.T.ravel().astype(int) * unit).tolist())

    assert np.array_equal(decoded(data).colour, PALETTE[NUMBERS])


def with_colours(data: bytes, colours: list[int]) -> bytes:
    """Return a TIFF with a colour map appended at its end."""
    (page,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, page)
    entries = data[page + 2 : page + 2 + 12 * count]
    place = page + 2 + 12 * (count + 1) + 4
    entries += struct.pack("<HHII", 320, 3, len(colours), place)
    head = data[:page] + struct.pack("<H", count + 1) + entries + bytes(4)
    return head + struct.pack(f"<{len(colours)}H", *colours)
