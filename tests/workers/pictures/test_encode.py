"""Pictures of every kind are encoded in every format as clients expect."""

from io import BytesIO

import numpy as np
import pytest
import tifffile
from factories import luma, photo, transparency
from PIL import Image

from workers.contract.errors import AlphaNotStorable, LosslessNotStorable, ResultTooLarge
from workers.contract.images.formats import ResultFormat
from workers.pictures.decode import decode
from workers.pictures.encode import encode
from workers.pictures.picture import Picture

COLOUR = photo(40, 60)
GREY = np.stack((luma(COLOUR),) * 3, axis=-1)
ALPHA = transparency(40, 60)
KINDS = {
    "colour": Picture(colour=COLOUR, dpi=(300, 150)),
    "colour and alpha": Picture(colour=COLOUR, alpha=ALPHA),
    "grey": Picture(colour=GREY, grey=True),
    "grey and alpha": Picture(colour=GREY, alpha=ALPHA, grey=True),
}


def written(picture: Picture, result: ResultFormat, *, quality: int = 95) -> Image.Image:
    image = Image.open(BytesIO(encode(picture, format=result, quality=quality)))
    image.load()
    assert image.get_format_mimetype() == result.media_type
    return image


@pytest.mark.parametrize(
    ("kind", "result", "mode"),
    [
        ("colour", "png", "RGB"),
        ("colour", "jpeg", "RGB"),
        ("colour", "webp", "RGB"),
        ("colour and alpha", "png", "RGBA"),
        ("colour and alpha", "webp", "RGBA"),
        ("colour", "tiff", "RGB"),
        ("colour and alpha", "tiff", "RGBA"),
        ("grey", "tiff", "L"),
        ("grey and alpha", "tiff", "LA"),
        ("colour", "avif", "RGB"),
        ("colour and alpha", "avif", "RGBA"),
        ("grey", "avif", "RGB"),
        ("colour", "jxl", "RGB"),
        ("colour and alpha", "jxl", "RGBA"),
        ("grey", "jxl", "L"),
        ("grey and alpha", "jxl", "LA"),
        ("grey", "png", "L"),
        ("grey", "jpeg", "L"),
        ("grey", "webp", "RGB"),
        ("grey and alpha", "png", "LA"),
        ("grey and alpha", "webp", "RGBA"),
    ],
)
def test_each_kind_of_picture_is_stored_as_what_it_is(kind: str, result: str, mode: str) -> None:
    picture = KINDS[kind]

    image = written(picture, ResultFormat(result))
    difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - picture.colour)
    assert image.mode == mode
    # WebP may change the colours of nearly transparent pixels, and stores few colours.
    seen = difference[:, 30:] if picture.alpha is not None else difference
    exact = result in ("png", "tiff")
    assert seen.mean() <= (0 if exact else 4)
    assert seen.max() <= (0 if exact else 40)
    if picture.alpha is not None:
        alpha = np.asarray(image.getchannel("A")).astype(int)
        assert np.abs(alpha - picture.alpha).max() <= (4 if result == "avif" else 0)


@pytest.mark.parametrize("quality", [80, 89, 90, 100])
def test_a_good_jpeg_keeps_its_colour_at_full_resolution(quality: int) -> None:
    image = written(KINDS["colour"], ResultFormat.JPEG, quality=quality)

    colour_block = image.layer[0][1:3]
    assert colour_block == ((1, 1) if quality >= 90 else (2, 2))


@pytest.mark.parametrize("result", [ResultFormat.JPEG, ResultFormat.WEBP, ResultFormat.JXL])
def test_quality_decides_the_size(result: ResultFormat) -> None:
    small, large = (
        len(encode(KINDS["colour"], format=result, quality=quality)) for quality in (30, 95)
    )

    assert small < large / 1.5


@pytest.mark.parametrize("result", [ResultFormat.PNG, ResultFormat.JPEG, ResultFormat.TIFF])
def test_dots_per_inch_are_kept(result: ResultFormat) -> None:
    image = written(KINDS["colour"], result)

    assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_a_picture_without_dots_per_inch_gets_none() -> None:
    assert "dpi" not in written(KINDS["grey"], ResultFormat.PNG).info
    assert "dpi" not in written(KINDS["grey"], ResultFormat.JPEG).info
    tiff = encode(KINDS["grey"], format=ResultFormat.TIFF, quality=90)
    assert decode(tiff, max_pixels=10_000).dpi is None


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_another_reader_finds_every_sample_of_a_tiff(channels: int, bits: int) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    samples = np.random.default_rng(3).integers(0, 2**bits, (400, 1201, channels)).astype(kind)
    colour = samples[..., :1] if channels < 3 else samples[..., :3]
    picture = Picture(
        colour=np.broadcast_to(colour, (400, 1201, 3)),
        alpha=samples[..., -1] if channels in (2, 4) else None,
        grey=channels < 3,
    )
    data = encode(picture, format=ResultFormat.TIFF, quality=90)

    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        assert len(page.dataoffsets) > 1
        assert np.array_equal(page.asarray().reshape(samples.shape), samples)


def test_transparency_does_not_become_black_in_a_jpeg() -> None:
    with pytest.raises(AlphaNotStorable):
        encode(KINDS["colour and alpha"], format=ResultFormat.JPEG, quality=90)


@pytest.mark.parametrize("result", [ResultFormat.JPEG, ResultFormat.WEBP, ResultFormat.AVIF])
def test_a_side_that_the_format_ends_before_is_refused(result: ResultFormat) -> None:
    colour = np.zeros((1, result.max_side + 1, 3), np.uint8)

    with pytest.raises(ResultTooLarge):
        encode(Picture(colour=colour), format=result, quality=90)


@pytest.mark.parametrize("result", [ResultFormat.JPEG, ResultFormat.WEBP, ResultFormat.AVIF])
def test_the_longest_side_is_written(result: ResultFormat) -> None:
    colour = np.zeros((1, result.max_side, 3), np.uint8)

    assert written(Picture(colour=colour), result).width == result.max_side


@pytest.mark.parametrize("result", [ResultFormat.WEBP, ResultFormat.JXL])
@pytest.mark.parametrize("kind", KINDS)
def test_lossless_results_lose_nothing(kind: str, result: ResultFormat) -> None:
    picture = KINDS[kind]
    data = encode(picture, format=result, quality=10, lossless=True)
    image = Image.open(BytesIO(data))

    assert np.array_equal(np.asarray(image.convert("RGB")), picture.colour)
    if picture.alpha is not None:
        assert np.array_equal(np.asarray(image.getchannel("A")), picture.alpha)


@pytest.mark.parametrize("result", [ResultFormat.JPEG, ResultFormat.AVIF])
def test_lossless_is_refused_for_a_format_that_is_always_lossy(result: ResultFormat) -> None:
    with pytest.raises(LosslessNotStorable, match="choose png, webp or tiff"):
        encode(KINDS["colour"], format=result, quality=100, lossless=True)
