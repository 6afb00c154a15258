"""Results below four times are reduced in linear light, antialiased, to the requested size."""

import numpy as np
import pytest
from factories import photo, srgb_decoded, srgb_encoded, transparency
from pydantic import ValidationError

from workers.contract.errors import ScaleTooLarge
from workers.contract.images.options import PictureChoices
from workers.pictures.finish import postprocess
from workers.pictures.picture import Picture
from workers.pictures.reduce import reduced


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_flat_colour_stays_exactly_that(kind: type[np.unsignedinteger], level: float) -> None:
    full = np.iinfo(kind).max
    colour = np.full((300, 90, 3), round(level * full), kind)
    result = reduced(Picture(colour=colour, alpha=colour[..., 0]), width=37, height=131)

    assert result.alpha is not None
    assert np.abs(result.colour.astype(int) - round(level * full)).max() <= full // 65535
    assert np.abs(result.alpha.astype(int) - round(level * full)).max() <= full // 65535


def test_a_fine_chequerboard_becomes_the_grey_of_its_light() -> None:
    chequers = (np.indices((80, 80)).sum(axis=0) % 2 * 255).astype(np.uint8)
    grey = np.broadcast_to(chequers[..., None], (80, 80, 3))
    result = reduced(Picture(colour=grey, grey=True), width=20, height=20)

    middle = result.colour[4:-4, 4:-4].astype(int)
    assert np.abs(middle - 188).max() <= 2  # not 128, the mean of the levels


def test_reducing_does_not_shift_a_smooth_picture() -> None:
    y, x = np.mgrid[0:1:200j, 0:1:240j]
    colour = np.rint(np.stack((x, y, 1 - x), axis=-1) * 200 + 20).astype(np.uint8)
    result = reduced(Picture(colour=colour), width=120, height=100).colour
    light = srgb_decoded(colour).reshape(100, 2, 120, 2, 3).mean(axis=(1, 3))

    assert np.abs(result - srgb_encoded(light))[2:-2, 2:-2].max() <= 1


def test_bands_leave_no_trace() -> None:
    tall = np.tile(photo(64, 40), (12, 1, 1))
    result = reduced(Picture(colour=tall), width=20, height=384).colour

    # Away from the ends, the picture repeats every 32 rows in whatever band.
    assert np.array_equal(result[32:64], result[320:352])
    assert np.array_equal(result[120:152], result[152:184])


def test_a_picture_is_never_enlarged_here() -> None:
    with pytest.raises(ValueError, match="cannot be reduced"):
        reduced(Picture(colour=photo()), width=31, height=20)


@pytest.mark.parametrize(
    ("choices", "size"),
    [
        ({}, (400, 200)),
        ({"scale": 4}, (400, 200)),
        ({"scale": 1}, (100, 50)),
        ({"scale": 2.5}, (250, 125)),
        ({"width": 300}, (300, 150)),
        ({"height": 100}, (200, 100)),
        ({"width": 300, "height": 100}, (200, 100)),
        ({"width": 120, "height": 100}, (120, 60)),
        ({"width": 10}, (10, 5)),
        ({"height": 1}, (2, 1)),
    ],
)
def test_the_size_is_the_one_that_was_chosen(
    choices: dict[str, float], size: tuple[int, int]
) -> None:
    chosen = PictureChoices.model_validate(choices)
    picture = Picture(colour=np.zeros((200, 400, 3), np.uint8), alpha=transparency(200, 400))
    result = postprocess(picture, chosen)

    assert chosen.result_size(width=100, height=50) == size
    assert (result.width, result.height) == size
    assert result.alpha is not None
    assert result.alpha.shape == size[::-1]


def test_more_than_four_times_is_refused() -> None:
    with pytest.raises(ScaleTooLarge, match="at most 400 x 200"):
        PictureChoices(width=401).result_size(width=100, height=50)


def test_a_picture_that_may_yet_be_turned_is_refused_only_if_that_does_not_help() -> None:
    assert PictureChoices(height=400).possible_size(width=100, height=50) == (200, 400)
    with pytest.raises(ScaleTooLarge):
        PictureChoices(height=401).possible_size(width=100, height=50)


@pytest.mark.parametrize(
    "choices", [{"scale": 0.9}, {"scale": 4.1}, {"scale": 2, "width": 9}, {"width": 0}]
)
def test_sizes_that_make_no_sense_are_invalid(choices: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PictureChoices.model_validate(choices)
