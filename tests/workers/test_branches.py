"""Kept branches: read back exactly, blended within a level of the true blend, and quickly."""

import time

import numpy as np
import pytest
from factories import photo, transparency

from workers.branches import blend_pictures, needed_outputs, read_branch, write_branch
from workers.contract.errors import ImageCorrupt
from workers.pictures.picture import Picture

COLOUR = photo(37, 53)
PICTURES = {
    "colour": Picture(colour=COLOUR, dpi=(300, 300)),
    "transparent": Picture(colour=COLOUR, alpha=transparency(37, 53)),
    "grey": Picture(colour=np.broadcast_to(COLOUR[..., :1], COLOUR.shape), grey=True),
    "grey, transparent": Picture(
        colour=np.broadcast_to(COLOUR[..., :1], COLOUR.shape),
        alpha=transparency(37, 53),
        grey=True,
    ),
    "a pixel": Picture(colour=photo(1, 1)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_branch_is_read_back_as_it_was_written(kind: str) -> None:
    picture = PICTURES[kind]

    again = read_branch(write_branch(picture))

    assert np.array_equal(again.colour, picture.colour)
    assert (again.alpha is None) == (picture.alpha is None)
    if again.alpha is not None and picture.alpha is not None:
        assert np.array_equal(again.alpha, picture.alpha)
    assert again.grey == picture.grey
    if picture.dpi:
        assert again.dpi == pytest.approx(picture.dpi, abs=0.02)


def test_a_branch_of_another_writer_is_refused() -> None:
    png = write_branch(PICTURES["colour"])

    with pytest.raises(ImageCorrupt):
        read_branch(png[: len(png) // 2])


def test_a_position_takes_its_two_neighbours() -> None:
    assert needed_outputs(0) == {"psnr": 1}
    assert needed_outputs(0.5) == {"fused": 1}
    assert needed_outputs(1) == {"gan": 1}
    assert needed_outputs(0.35) == pytest.approx({"psnr": 0.3, "fused": 0.7})
    assert list(needed_outputs(0.9)) == ["fused", "gan"]


@pytest.mark.parametrize("trade_off", [0.001, 0.1, 0.25, 0.35, 0.499])
def test_a_blend_of_rounded_outputs_is_within_a_level_of_the_blend_of_exact_ones(
    trade_off: float,
) -> None:
    first, second = np.random.default_rng(0).uniform(0, 255, (2, 100, 100, 3))
    shares = list(needed_outputs(trade_off).values())
    direct = np.rint(first * shares[0] + second * shares[1])

    pictures = [Picture(colour=np.rint(one).astype(np.uint8)) for one in (first, second)]
    blended = blend_pictures(pictures, shares).colour

    assert np.abs(blended.astype(int) - direct).max() <= 1


def test_equal_samples_stay_as_they_are() -> None:
    picture = PICTURES["transparent"]

    for share in (0.0, 0.3, 0.5, 0.999):
        blended = blend_pictures([picture, picture], [1 - share, share])
        assert np.array_equal(blended.colour, picture.colour)


def test_a_blend_of_four_megapixels_takes_little_time() -> None:
    branches = [write_branch(Picture(colour=photo(2048, 2048, seed=seed))) for seed in (0, 1)]
    taken = []
    for _ in range(3):
        start = time.process_time()
        blend_pictures([read_branch(branch) for branch in branches], [0.3, 0.7])
        taken.append(time.process_time() - start)

    print(f"blend of 2048 x 2048: {min(taken):.3f} s of CPU")  # noqa: T201
    assert min(taken) < 0.15
