"""Alpha is upscaled without fringes, keeps its extremes, and can be laid on a background."""

import numpy as np
import pytest
from factories import photo, transparency
from numpy.typing import NDArray

from workers.pictures.colour.alpha import (
    bleed_alpha,
    enlarge_by_lanczos,
    flattened,
    restore_extremes,
)
from workers.pictures.picture import Picture

Pixels = NDArray[np.uint8]


def disc(side: int = 40) -> NDArray[np.bool_]:
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    return np.hypot(x, y) < side / 3


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
def test_clear_pixels_take_the_colour_beside_them(
    hidden: tuple[int, int, int],
) -> None:
    colour = np.where(disc()[..., None], (200, 120, 40), hidden).astype(np.uint8)
    alpha = np.where(disc(), 255, 0).astype(np.uint8)

    assert (bleed_alpha(colour, alpha) == (200, 120, 40)).all()


def test_visible_pixels_keep_their_colour_however_faint() -> None:
    colour, alpha = photo(31, 47), np.zeros((31, 47), np.uint8)
    alpha[disc(31)[:, :31].nonzero()] = 1

    np.testing.assert_array_equal(bleed_alpha(colour, alpha)[alpha > 0], colour[alpha > 0])


def test_each_hidden_pixel_takes_its_colour_from_its_own_side() -> None:
    colour = np.zeros((20, 64, 3), np.uint8)
    alpha = np.zeros((20, 64), np.uint8)
    colour[:, :8], colour[:, -8:] = (250, 0, 0), (0, 0, 250)
    alpha[:, :8] = alpha[:, -8:] = 255
    filled = bleed_alpha(colour, alpha)

    assert (filled[:, 8:12] == (250, 0, 0)).all()
    assert (filled[:, -12:-8] == (0, 0, 250)).all()


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_that_is_all_clear_or_all_visible_is_left_alone(level: int) -> None:
    colour = photo()

    assert bleed_alpha(colour, np.full((20, 30), level, np.uint8)) is colour


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_ends_are_exact_away_from_edges_and_free_beside_them(
    kind: type[np.unsignedinteger],
) -> None:
    full = np.iinfo(kind).max
    alpha = np.zeros((6, 9), kind)
    alpha[:, 4:] = full
    enlarged = np.full((24, 36), full // 2, kind)
    restore_extremes(enlarged, alpha)

    assert (enlarged[:, :12] == 0).all()
    assert (enlarged[:, 12:20] == full // 2).all()
    assert (enlarged[:, 20:] == full).all()


def test_lanczos_enlarges_transparency_in_place() -> None:
    alpha = transparency(20, 30)
    enlarged = enlarge_by_lanczos(alpha)

    assert enlarged.shape == (80, 120)
    difference = enlarged.reshape(20, 4, 30, 4).mean(axis=(1, 3)) - alpha
    assert np.abs(difference[:, 3:-3]).max() < 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_background_is_blended_in_by_alpha(kind: type[np.unsignedinteger]) -> None:
    unit = np.iinfo(kind).max // 255
    colour = (photo().astype(np.uint32) * unit).astype(kind)
    alpha = (transparency().astype(np.uint32) * unit).astype(kind)
    flat = flattened(Picture(colour=colour, alpha=alpha), "#ff8000")
    share = transparency()[..., None] / 255

    expected = photo() * share + np.array((255, 128, 0)) * (1 - share)
    assert flat.alpha is None
    assert flat.colour.dtype == kind
    assert np.abs(flat.colour / unit - expected).max() <= 0.5 + 1e-9
    assert np.array_equal(flat.colour[:, -1], colour[:, -1])


@pytest.mark.parametrize(("background", "grey"), [("#808080", True), ("#808081", False)])
def test_a_grey_picture_stays_grey_on_a_grey_background_only(background: str, grey: bool) -> None:  # noqa: FBT001
    level = np.full((20, 30, 3), 9, np.uint8)

    assert (
        flattened(Picture(colour=level, alpha=transparency(), grey=True), background).grey is grey
    )
