"""Tiles cover every pixel exactly once and leave no visible seam."""

from collections.abc import Iterator

import numpy as np
import pytest
from factories import Pixels, photo

from workers.tiles.tiling import (
    Span,
    TilePlan,
    cheapest_plan,
    cut,
    flat_result,
    is_flat,
    plan_tiles,
    stitch,
)

SIZES = [(1, 1), (1, 500), (3, 200), (64, 64), (65, 127), (257, 311)]
#: Tile, halo and feather.
SHAPES = [(32, 0, 0), (48, 8, 0), (64, 8, 8), (64, 16, 4), (96, 16, 16), (256, 16, 8), (33, 5, 2)]

every_size = pytest.mark.parametrize(("height", "width"), SIZES)
every_shape = pytest.mark.parametrize(("tile", "halo", "feather"), SHAPES)


def nearest(pixels: Pixels) -> Pixels:
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


def upscaled(picture: Pixels, plan: TilePlan) -> Iterator[Pixels]:
    return map(nearest, cut(picture, plan))


@every_shape
@every_size
def test_every_pixel_is_kept_exactly_once(
    height: int, width: int, tile: int, halo: int, feather: int
) -> None:
    plan = plan_tiles(height=height, width=width, tile=tile, halo=halo, feather=feather)

    kept = np.zeros((height, width), int)
    for row, col in plan:
        kept[row.start : row.stop, col.start : col.stop] += 1
    assert (kept == 1).all()
    assert len(list(plan)) == len(plan)


@every_shape
@every_size
def test_no_smaller_number_of_tiles_would_do_and_they_share_evenly(
    height: int, width: int, tile: int, halo: int, feather: int
) -> None:
    plan = plan_tiles(height=height, width=width, tile=tile, halo=halo, feather=feather)

    for spans, length in ((plan.rows, height), (plan.cols, width)):
        shares = [span.stop - span.start for span in spans]
        assert len(spans) == -(-length // (tile - 2 * halo))
        assert max(shares) - min(shares) <= 1


@every_shape
@every_size
def test_every_kept_pixel_has_its_context(
    height: int, width: int, tile: int, halo: int, feather: int
) -> None:
    plan = plan_tiles(height=height, width=width, tile=tile, halo=halo, feather=feather)

    for spans, length in ((plan.rows, height), (plan.cols, width)):
        for span in spans:
            first = span.start - (feather // 2 if span.start else 0)
            last = span.stop + (feather // 2 if span.stop < length else 0)
            assert first - span.read >= halo - feather // 2
            assert span.read + tile - last >= halo - feather // 2
            assert span.start - span.read >= halo
            assert span.read + tile - span.stop >= halo


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_and_other_channels_are_stitched_as_exactly(channels: int) -> None:
    samples = np.random.default_rng(3).integers(0, 65536, (90, 70, channels))
    picture = samples.astype(np.uint16)
    picture[:30] = 65535
    plan = plan_tiles(height=90, width=70, tile=64, halo=16, feather=8)
    result = stitch(upscaled(picture, plan), plan)

    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, nearest(picture))


def test_spare_pixels_are_read_inside_the_picture() -> None:
    plan = plan_tiles(height=100, width=1000, tile=64, halo=8, feather=0)

    assert plan.rows == (Span(0, 33, -8), Span(33, 67, 18), Span(67, 100, 44))
    assert min(span.read for span in plan.cols) == -8
    assert max(span.read + 64 for span in plan.cols) == 1008


@every_shape
@every_size
def test_beyond_the_picture_its_reflection_is_read(
    height: int, width: int, tile: int, halo: int, feather: int
) -> None:
    picture = photo(height, width)
    plan = plan_tiles(height=height, width=width, tile=tile, halo=halo, feather=feather)
    padded = np.pad(picture, ((tile, tile), (tile, tile), (0, 0)), mode="symmetric")

    tiles = list(cut(picture, plan))
    assert len(tiles) == len(plan)
    for (row, col), found in zip(plan, tiles, strict=True):
        y, x = row.read + tile, col.read + tile
        assert np.array_equal(found, padded[y : y + tile, x : x + tile])


def test_tiles_inside_the_picture_are_not_copied() -> None:
    picture = photo(300, 300)
    plan = plan_tiles(height=300, width=300, tile=64, halo=8, feather=8)

    inner = list(cut(picture, plan))[len(plan.cols) + 1]
    assert np.shares_memory(inner, picture)


def test_tiles_are_cut_when_they_are_asked_for() -> None:
    picture = photo(100, 100)
    tiles = cut(picture, plan_tiles(height=100, width=100, tile=64, halo=8, feather=0))
    next(tiles)
    picture[:] = 7

    assert (next(tiles) == 7).all()


@every_shape
@every_size
def test_stitching_undoes_cutting(
    height: int, width: int, tile: int, halo: int, feather: int
) -> None:
    picture = photo(height, width)
    plan = plan_tiles(height=height, width=width, tile=tile, halo=halo, feather=feather)

    assert np.array_equal(stitch(upscaled(picture, plan), plan), nearest(picture))


def test_one_buffer_serves_all_tiles() -> None:
    picture = photo(150, 190)
    plan = plan_tiles(height=150, width=190, tile=64, halo=12, feather=6)
    buffer = np.empty((256, 256, 3), np.uint8)

    def shared() -> Iterator[Pixels]:
        for tile in upscaled(picture, plan):
            buffer[:] = tile
            yield buffer

    assert np.array_equal(stitch(shared(), plan), nearest(picture))


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_a_flat_picture_stays_flat(level: int) -> None:
    picture = np.full((130, 170, 3), level, np.uint8)
    plan = plan_tiles(height=130, width=170, tile=64, halo=8, feather=8)

    assert (stitch(upscaled(picture, plan), plan) == level).all()


def checkered(plan: TilePlan, low: int, high: int) -> Iterator[Pixels]:
    """Yield flat tiles of two levels in a chessboard pattern."""
    for index in range(len(plan)):
        y, x = divmod(index, len(plan.cols))
        yield np.full((4 * plan.tile, 4 * plan.tile, 3), high if (y + x) % 2 else low, np.uint8)


@pytest.mark.parametrize("feather", [2, 4, 8, 16])
@pytest.mark.parametrize("low", [0, 100, 252])
def test_tiles_three_levels_apart_meet_in_steps_of_one(low: int, feather: int) -> None:
    plan = plan_tiles(height=200, width=230, tile=96, halo=16, feather=feather)

    found = stitch(checkered(plan, low, low + 3), plan).astype(int)
    assert np.abs(np.diff(found, axis=0)).max() == 1
    assert np.abs(np.diff(found, axis=1)).max() == 1
    assert found.min() == low
    assert found.max() == low + 3


def test_a_band_runs_straight_from_one_tile_to_the_other() -> None:
    plan = plan_tiles(height=20, width=128, tile=96, halo=16, feather=8)

    line = stitch(checkered(plan, 0, 255), plan)[40, :, 1].astype(float)
    seam, half = 4 * plan.cols[1].start, 16
    assert (line[: seam - half] == 0).all()
    assert (line[seam + half :] == 255).all()
    straight = 255 * (np.arange(32) + 0.5) / 32
    assert np.abs(line[seam - half : seam + half] - straight).max() <= 1


def test_without_a_feather_tiles_meet_at_once() -> None:
    plan = plan_tiles(height=20, width=128, tile=96, halo=16, feather=0)

    line = stitch(checkered(plan, 0, 255), plan)[0, :, 0]
    assert np.array_equal(line, np.repeat([0, 255], 256))


def test_the_same_tiles_give_the_same_picture() -> None:
    plan = plan_tiles(height=100, width=130, tile=64, halo=8, feather=8)
    tiles = np.random.default_rng(1).integers(0, 256, (len(plan), 256, 256, 3), np.uint8)

    assert np.array_equal(stitch(tiles, plan), stitch(iter(tiles), plan))


def test_only_tiles_of_the_plan_are_stitched() -> None:
    plan = plan_tiles(height=100, width=100, tile=64, halo=8, feather=8)
    tiles = [np.zeros((256, 256, 3), np.uint8)] * len(plan)

    with pytest.raises(ValueError, match="got no tile"):
        stitch(tiles[:-1], plan)
    with pytest.raises(ValueError, match="more than the 9 tiles"):
        stitch([*tiles, tiles[0]], plan)
    with pytest.raises(ValueError, match="256 x 256 x 3 uint8, got a tile of"):
        stitch([tiles[0][:100], *tiles[1:]], plan)


def test_only_the_picture_of_the_plan_is_cut() -> None:
    plan = plan_tiles(height=100, width=100, tile=64, halo=8, feather=8)

    with pytest.raises(ValueError, match="100 x 100"):
        cut(photo(100, 101), plan)


@pytest.mark.parametrize(
    ("tile", "halo", "feather"),
    [(64, 32, 0), (64, -1, 0), (64, 8, 3), (64, 8, 10), (48, 20, 8), (64, 8, -2)],
)
def test_shapes_that_cannot_work_are_refused(tile: int, halo: int, feather: int) -> None:
    with pytest.raises(ValueError, match=r"halo|feather"):
        plan_tiles(height=100, width=100, tile=tile, halo=halo, feather=feather)


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 5"):
        plan_tiles(height=0, width=5, tile=64, halo=8, feather=8)


def test_a_tile_is_flat_if_all_its_pixels_are_one_colour() -> None:
    tile = np.full((64, 64, 3), (1, 2, 3), np.uint8)
    assert is_flat(tile)

    for y, x, channel in ((0, 0, 0), (0, 63, 2), (63, 0, 1), (63, 63, 2), (31, 40, 0)):
        other = tile.copy()
        other[y, x, channel] += 1
        assert not is_flat(other)


def test_a_flat_result_has_the_colour_of_its_tile() -> None:
    tile = np.full((64, 64, 3), (1, 2, 3), np.uint8)

    assert np.array_equal(flat_result(tile), nearest(tile))


@pytest.mark.parametrize(
    ("height", "width", "tile"),
    [
        (1, 1, 160),
        (128, 128, 160),  # exactly one small tile
        (129, 128, 160),  # two small tiles cost less than a large one
        (256, 256, 288),  # exactly one large tile
        (300, 300, 160),
        (512, 512, 288),
        (4000, 3000, 288),
    ],
)
def test_a_picture_is_cut_where_the_fewest_pixels_are_computed(
    height: int, width: int, tile: int
) -> None:
    plan = cheapest_plan((160, 288), height=height, width=width, halo=16, feather=8)

    assert plan.tile == tile
