"""One frame of an animation, or page of a document, looks as in a viewer."""

import itertools
import struct
from contextlib import nullcontext
from io import BytesIO

import numpy as np
import pytest
import tifffile
from factories import (
    GifPart,
    PngPart,
    apng,
    gif,
    held,
    luma,
    photo,
    png,
    png_chunk,
    saved,
    transparency,
)
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from workers.contract.errors import FrameMissing, GDSRError, ImageAnimated, ImageCorrupt
from workers.pictures.decode import decode
from workers.pictures.picture import Picture

HEIGHT, WIDTH = 12, 16
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
#: Colours by index; index 9 is declared clear.
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[:3] = (RED, GREEN, BLUE)
CLEAR = 9
KEEP, WIPE, RESTORE = 1, 2, 3


def frame_of(data: bytes, frame: int) -> Picture:
    return decode(data, max_pixels=10_000, frame=frame)


def shown(picture: Picture) -> NDArray[np.integer]:
    """Return RGBA, with zeros where alpha is zero."""
    alpha = picture.alpha
    if alpha is None:
        alpha = np.full(picture.colour.shape[:2], np.iinfo(picture.colour.dtype).max)
    return np.dstack((picture.colour * (alpha > 0)[..., None], alpha)).astype(int)


def canvas(*boxes: tuple[slice, slice, tuple[int, int, int]]) -> NDArray[np.integer]:
    """Return boxes of colour on a clear canvas."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), int)
    for rows, columns, colour in boxes:
        pixels[rows, columns] = (*colour, 255)
    return pixels


ALL = slice(None), slice(None)
MIDDLE, CORNER = (slice(3, 9), slice(4, 12)), (slice(0, 4), slice(0, 5))


def animated_gif(second: int, *, first: int = KEEP) -> bytes:
    """Red everywhere; green in the middle, with the given disposal; a half clear blue corner."""
    corner = np.full((4, 5), 2)
    corner[2:] = CLEAR
    parts = [
        GifPart(np.zeros((HEIGHT, WIDTH), int), disposal=first),
        GifPart(np.ones((6, 8), int), left=4, top=3, disposal=second),
        GifPart(corner, clear=CLEAR),
    ]
    return gif(parts, height=HEIGHT, width=WIDTH, palette=PALETTE)


BLUE_CORNER = slice(0, 2), slice(0, 5), BLUE


def test_the_first_frame_of_a_gif_is_itself() -> None:
    assert np.array_equal(shown(frame_of(animated_gif(KEEP), 0)), canvas((*ALL, RED)))


def test_a_frame_of_a_gif_lies_on_those_before_it() -> None:
    second, third = (frame_of(animated_gif(KEEP), frame) for frame in (1, 2))

    assert second.alpha is None
    assert np.array_equal(shown(second), canvas((*ALL, RED), (*MIDDLE, GREEN)))
    assert np.array_equal(shown(third), canvas((*ALL, RED), (*MIDDLE, GREEN), BLUE_CORNER))


def test_a_frame_of_a_gif_may_leave_a_hole() -> None:
    picture = frame_of(animated_gif(WIPE), 2)
    meant = canvas((*ALL, RED))
    meant[MIDDLE] = 0
    meant[BLUE_CORNER[:2]] = (*BLUE, 255)

    assert np.array_equal(shown(picture), meant)


def test_a_frame_of_a_gif_may_take_itself_back() -> None:
    picture = frame_of(animated_gif(RESTORE), 2)

    assert picture.alpha is None
    assert np.array_equal(shown(picture), canvas((*ALL, RED), BLUE_CORNER))


def test_a_first_frame_that_is_wiped_leaves_nothing() -> None:
    picture = frame_of(animated_gif(KEEP, first=WIPE), 1)

    assert np.array_equal(shown(picture), canvas((*MIDDLE, GREEN)))


def test_an_animation_by_pillow_is_read_frame_by_frame() -> None:
    frames = [Image.fromarray(photo(HEIGHT, WIDTH, seed=seed)).quantize(64) for seed in range(4)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=1)

    for number, frame in enumerate(frames):
        assert np.array_equal(frame_of(data, number).colour, np.asarray(frame.convert("RGB")))


def over(above: NDArray[np.integer], below: NDArray[np.integer], full: int) -> NDArray[np.float64]:
    """Composite as the PNG specification says, pixel by pixel."""
    result = np.zeros(below.shape)
    for at in itertools.product(*map(range, below.shape[:2])):
        share, rest = above[at][3] / full, below[at][3] / full
        total = share + rest * (1 - share)
        for channel in range(3 if total else 0):
            mixed = above[at][channel] * share + below[at][channel] * rest * (1 - share)
            result[at][channel] = mixed / total
        result[at][3] = total * full
    return result


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("on", [False, True])
def test_a_frame_of_an_apng_replaces_or_is_laid_over(on: bool, bits: int) -> None:  # noqa: FBT001
    full = 2**bits - 1
    first, second = np.random.default_rng(4).integers(0, full + 1, (2, HEIGHT, WIDTH, 4))
    part = second[:6, :8]
    data = apng(
        [PngPart(first), PngPart(part, left=4, top=3, over=on)],
        height=HEIGHT,
        width=WIDTH,
        bits=bits,
    )
    picture = frame_of(data, 1)
    meant = first.astype(float)
    meant[MIDDLE] = over(part, first[MIDDLE], full) if on else part

    assert picture.bits == bits
    assert picture.alpha is not None
    assert np.abs(picture.alpha - meant[..., 3]).max() <= 1
    seen = meant[..., 3] > full / 8
    assert np.abs(picture.colour.astype(int) - meant[..., :3])[seen].max() <= 1


@pytest.mark.parametrize(
    ("disposal", "left_over"), [(0, GREEN), (1, None), (2, RED)], ids=["none", "clear", "restore"]
)
def test_a_frame_of_an_apng_is_disposed_of(
    disposal: int, left_over: tuple[int, int, int] | None
) -> None:
    parts = [
        PngPart(np.full((HEIGHT, WIDTH, 3), RED)),
        PngPart(np.full((6, 8, 3), GREEN), left=4, top=3, disposal=disposal),
        PngPart(np.full((4, 5, 3), BLUE)),
    ]
    picture = frame_of(apng(parts, height=HEIGHT, width=WIDTH, colour_type=2), 2)
    meant = canvas((*ALL, RED), (*CORNER, BLUE))
    middle = meant[MIDDLE]
    middle[:] = 0 if left_over is None else (*left_over, 255)
    meant[CORNER] = (*BLUE, 255)

    assert np.array_equal(shown(picture), meant)
    assert (picture.alpha is None) == (left_over is not None)


def test_the_default_image_of_an_apng_may_be_no_frame() -> None:
    parts = [PngPart(np.full((HEIGHT, WIDTH, 3), colour)) for colour in (GREEN, BLUE)]
    still = np.full((HEIGHT, WIDTH, 3), RED)
    data = apng(parts, height=HEIGHT, width=WIDTH, colour_type=2, still=still)

    assert np.array_equal(shown(frame_of(data, 0)), canvas((*ALL, GREEN)))
    assert np.array_equal(shown(frame_of(data, 1)), canvas((*ALL, BLUE)))


@pytest.mark.parametrize("place", ["before the first frame", "in the first frame"])
def test_a_frame_of_an_apng_has_the_palette_of_all(place: str) -> None:
    palette = png_chunk(b"PLTE", photo(16, 16).tobytes())
    numbers = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)
    data = apng(
        [PngPart(numbers * 0), PngPart(numbers)],
        height=HEIGHT,
        width=WIDTH,
        colour_type=3,
        chunks=[(b"PLTE", photo(16, 16).tobytes())],
    )
    if place == "in the first frame":
        start, control, pixels = (
            data.index(palette),
            data.index(b"fcTL") - 4,
            data.index(b"IDAT") - 4,
        )
        data = data[:start] + data[control:pixels] + palette + data[pixels:]

    colours = frame_of(data, 1).colour.reshape(-1, 3)
    assert np.array_equal(colours, photo(16, 16).reshape(-1, 3)[: HEIGHT * WIDTH])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("still", [None, np.zeros((HEIGHT, WIDTH, 4), int)], ids=["none", "still"])
def test_a_frame_of_an_apng_is_turned_as_a_whole_and_keeps_its_metadata(
    orientation: int, still: ArrayLike | None
) -> None:
    exif = held(orientation)
    exif[0x013B] = "Ann"  # artist
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    parts = [
        PngPart(np.dstack((photo(HEIGHT, WIDTH), transparency(HEIGHT, WIDTH)))),
        PngPart(np.full((4, 5, 4), 77), left=1, top=2),
    ]
    notes = [
        (b"pHYs", struct.pack(">IIB", 1000, 2000, 1)),
        (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
    ]

    def second(chunks: list[tuple[bytes, bytes]]) -> Picture:
        return frame_of(apng(parts, height=HEIGHT, width=WIDTH, chunks=chunks, still=still), 1)

    picture, plain = second(notes), second(notes[:1])
    meant = ImageOps.exif_transpose(_with_exif(shown(plain), exif))

    assert np.array_equal(shown(picture), np.asarray(meant))
    assert plain.dpi is not None
    assert picture.dpi == (plain.dpi if orientation < 5 else plain.dpi[::-1])
    assert picture.metadata.exif is not None
    assert b"Ann" in picture.metadata.exif
    assert picture.metadata.xmp is not None
    assert not picture.warnings


def _with_exif(pixels: NDArray[np.integer], exif: Image.Exif) -> Image.Image:
    image = Image.fromarray(pixels.astype(np.uint8))
    image.info["exif"] = exif.tobytes()
    return image


@pytest.mark.parametrize("clear", [False, True])
def test_a_frame_of_a_webp_is_itself(clear: bool) -> None:  # noqa: FBT001
    frames = [photo(HEIGHT, WIDTH, seed=seed) for seed in range(3)]
    if clear:
        frames = [np.dstack((frame, transparency(HEIGHT, WIDTH))) for frame in frames]
    images = [Image.fromarray(frame) for frame in frames]
    options = {"lossless": True, "exact": True, "kmax": 1}
    data = saved(images[0], "WEBP", save_all=True, append_images=images[1:], **options)

    for number, frame in enumerate(frames):
        picture = frame_of(data, number)
        assert (picture.alpha is not None) == clear
        seen = np.s_[:, 1:] if clear else np.s_[:]  # the first column is clear
        assert np.array_equal(picture.colour[seen], frame[..., :3][seen])


def test_a_frame_of_an_avif_is_near_itself() -> None:
    frames = [photo(HEIGHT, WIDTH, seed=seed) for seed in range(3)]
    images = [Image.fromarray(frame) for frame in frames]
    data = saved(
        images[0], "AVIF", save_all=True, append_images=images[1:], quality=100, subsampling="4:4:4"
    )

    for number, frame in enumerate(frames):
        assert np.abs(frame_of(data, number).colour.astype(int) - frame).max() <= 12


DEEP = np.arange(0, 65536, 350)[: HEIGHT * 14].reshape(HEIGHT, 14).astype(np.uint16)


def test_each_page_of_a_tiff_is_a_picture_of_its_own() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(photo(HEIGHT, WIDTH), photometric="rgb")
        writer.write(DEEP, photometric="minisblack")
        held_sideways = [(274, "H", 1, 6)]
        writer.write(np.rot90(luma(photo(8, 9))).copy(), extratags=held_sideways)
    data = file.getvalue()

    assert np.array_equal(frame_of(data, 0).colour, photo(HEIGHT, WIDTH))
    assert np.array_equal(frame_of(data, 1).colour[..., 0], DEEP)
    assert frame_of(data, 1).bits == 16
    assert np.array_equal(frame_of(data, 2).colour[..., 0], luma(photo(8, 9)))


@pytest.mark.parametrize("first", [True, False])
def test_a_small_copy_is_no_page_of_a_tiff(first: bool) -> None:  # noqa: FBT001
    colour = photo(HEIGHT, WIDTH)
    pages = [(colour, 0), (colour[::2, ::2].copy(), 1)]
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for samples, kind in pages[::-1] if first else pages:
            writer.write(samples, photometric="rgb", subfiletype=kind)

    assert np.array_equal(decode(file.getvalue(), max_pixels=10_000).colour, colour)


def test_a_transparency_mask_is_no_page_of_a_tiff_and_left_out_with_a_warning() -> None:
    colour = photo(HEIGHT, WIDTH)
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(colour, photometric="rgb", metadata=None)
        writer.write(np.ones((HEIGHT, WIDTH), bool), photometric="mask", subfiletype=4)

    picture = decode(file.getvalue(), max_pixels=10_000)

    assert np.array_equal(picture.colour, colour)
    assert picture.warnings == ("left out the transparency mask",)


ANIMATED = {
    "GIF": animated_gif(KEEP),
    "APNG": apng(
        [PngPart(np.zeros((HEIGHT, WIDTH, 4), int))] * 3, height=HEIGHT, width=WIDTH
    ),
    **{
        name: saved(
            photo(HEIGHT, WIDTH),
            name,
            save_all=True,
            append_images=[Image.fromarray(photo(HEIGHT, WIDTH, seed=seed)) for seed in (1, 2)],
        )
        for name in ("WEBP", "TIFF", "AVIF")
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ANIMATED)
def test_without_a_choice_an_animation_is_refused(kind: str) -> None:
    said = "several" if kind == "AVIF" else "3"

    with pytest.raises(ImageAnimated, match=f"{said} frames or pages; choose one"):
        decode(ANIMATED[kind], max_pixels=10_000)


@pytest.mark.parametrize("kind", ANIMATED)
def test_a_frame_beyond_the_last_one_is_missing(kind: str) -> None:
    assert frame_of(ANIMATED[kind], 2).width == WIDTH
    with pytest.raises(FrameMissing, match="no frame 3: it has 3, counted"):
        frame_of(ANIMATED[kind], 3)


@pytest.mark.parametrize("kind", ANIMATED)
def test_a_frame_that_is_cut_off_is_corrupt(kind: str) -> None:
    data = ANIMATED[kind]

    with pytest.raises((ImageCorrupt, FrameMissing)):
        frame_of(data[: int(len(data) * 0.8)], 2)


def test_an_apng_of_fewer_frames_than_it_says_is_corrupt() -> None:
    data = ANIMATED["APNG"].replace(
        struct.pack(">4sII", b"acTL", 3, 0), struct.pack(">4sII", b"acTL", 4, 0)
    )

    with pytest.raises(ImageCorrupt, match="fewer frames"):
        frame_of(data, 3)


@pytest.mark.parametrize("said", [0, 1, 2, 3, 4, 2**31, 2**32 - 1])
@pytest.mark.parametrize("frame", [None, 0, 2, 3, 2**31])
def test_a_wrong_number_of_frames_ends_in_a_picture_or_our_own_error(
    said: int, frame: int | None
) -> None:
    data = ANIMATED["APNG"].replace(
        png_chunk(b"acTL", struct.pack(">II", 3, 0)),
        png_chunk(b"acTL", struct.pack(">II", said, 0)),
    )
    shows = said < 2 if frame is None else frame < min(3, max(said, 1))

    with nullcontext() if shows else pytest.raises(GDSRError):
        assert decode(data, max_pixels=10_000, frame=frame).width == WIDTH


def test_an_apng_whose_parts_are_out_of_order_is_corrupt() -> None:
    frame = np.zeros((4, 4, 4), np.uint8)
    data = apng([PngPart(frame)] * 3, height=4, width=4)
    first, second = (at for at in range(len(data)) if data[at : at + 4] == b"fdAT")
    length = second - first - 4 - 38  # up to the fcTL chunk between them
    moved = data[: first - 4] + data[second - 4 :][: length + 4] + data[first - 4 + length + 4 :]

    with pytest.raises(ImageCorrupt, match="out of order"):
        decode(moved, max_pixels=100, frame=1)


def test_a_frame_outside_its_picture_is_corrupt() -> None:
    outside = [PngPart(np.zeros((HEIGHT, WIDTH, 4), int))] * 2
    outside[1] = outside[1]._replace(left=1)

    with pytest.raises(ImageCorrupt, match="outside"):
        frame_of(apng(outside, height=HEIGHT, width=WIDTH), 1)


def test_one_frame_may_be_asked_for_of_a_single_picture() -> None:
    samples: ArrayLike = photo(HEIGHT, WIDTH)
    turned = saved(np.rot90(photo(HEIGHT, WIDTH)).copy(), "JPEG", exif=held(6))

    assert np.array_equal(frame_of(png(samples, bits=8, colour_type=2), 0).colour, samples)
    assert frame_of(turned, 0).width == WIDTH
    with pytest.raises(FrameMissing):
        frame_of(turned, 1)
