"""The shipped network upscales whole pictures without seams, at any size and in flat areas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.process import prepare_process
from workers.contract.images.options import SCALE, AlphaMode
from workers.contract.settings import WorkerSettings
from workers.engine.checkpoints import checkpoint_files
from workers.engine.protocol import HALO
from workers.pictures.picture import Picture
from workers.tasks.pipeline import Progress, upscale_outputs
from workers.tiles.trade_off import MASK, Weights, output_weights

Pixels = NDArray[np.uint8]
Upscale = Callable[..., Any]
EVERYTHING = [*(output_weights(stop) for stop in (0, 0.5, 1)), MASK]


@pytest.fixture(scope="module")
def upscale() -> Upscale:
    prepare_process(None)
    from workers.engine.loading import load_engine
    from workers.engine.local import InProcessEngine

    lite = next(path for path in checkpoint_files(()) if path.stem == "lite")
    engines = {
        tile: InProcessEngine(
            load_engine(WorkerSettings(checkpoints=(lite,), precision="float32", tile=tile), "cpu")
        )
        for tile in (64, 192)
    }

    def run(
        colour: Pixels,
        *,
        alpha: Pixels | None = None,
        mode: AlphaMode = AlphaMode.MODEL,
        grey: bool = False,
        tile: int = 64,
        trade_off: float = 0.5,
        weights: list[Weights] | None = None,
        consistent: bool = False,
        progress: Progress = lambda *_: None,
    ) -> Picture | list[Picture]:
        results = upscale_outputs(
            Picture(colour=colour, alpha=alpha, grey=grey),
            engines[tile],
            model="lite",
            weights=weights or [output_weights(trade_off)],
            progress=progress,
            alpha=mode,
            consistent=consistent,
        )
        return results if weights else results[0]

    return run


def photo(height: int, width: int) -> Pixels:
    """Return a synthetic photograph with shades, edges and texture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    random = np.random.default_rng(1)
    texture = random.normal(scale=12, size=(height, width))
    stripes = 60 * np.sign(np.sin(x / 5 + y / 9))
    planes = [120 + stripes + texture, 100 + y % 97, 80 + (x + y) % 131]
    return np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("trade_off", [0.0, 0.5, 1.0])
def test_no_seam_is_seen_between_tiles(upscale: Upscale, trade_off: float) -> None:
    picture = photo(120, 140)
    tiled = upscale(picture, trade_off=trade_off).colour.astype(np.int16)
    whole = upscale(picture, tile=192, trade_off=trade_off).colour.astype(np.int16)

    error = tiled - whole
    assert np.abs(error).max() <= 2
    assert 10 * np.log10(255**2 / np.mean(np.square(error))) >= 55


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 30, 90)])
def test_a_picture_of_one_colour_stays_that_colour(
    upscale: Upscale, colour: tuple[int, int, int]
) -> None:
    picture = np.full((90, 70, 3), colour, np.uint8)

    np.testing.assert_array_equal(upscale(picture).colour, np.full((360, 280, 3), colour, np.uint8))


@pytest.mark.parametrize("level", [255, 128, 0])
@pytest.mark.parametrize("trade_off", [0.0, 0.5, 1.0])
@pytest.mark.slow
def test_one_other_pixel_makes_no_step_at_the_borders_of_its_tile(
    upscale: Upscale, level: int, trade_off: float
) -> None:
    picture = np.full((200, 200, 3), level, np.uint8)
    picture[100, 100] = 128 if level != 128 else 255
    result = upscale(picture, trade_off=trade_off).colour.astype(np.int16)

    # The network changes only pixels within its receptive field.
    near = slice(SCALE * (100 - HALO), SCALE * (101 + HALO))
    for axis in (0, 1):
        steps = np.abs(np.diff(result, axis=axis))
        steps[near, near] = 0
        assert steps.max() <= 1


def test_the_border_of_a_white_picture_with_a_dark_pixel_is_not_darkened(upscale: Upscale) -> None:
    picture = np.full((40, 40, 3), 255, np.uint8)
    picture[20, 20] = 0
    result = upscale(picture).colour

    border = np.concatenate([result[0], result[-1], result[:, 0], result[:, -1]])
    assert border.min() >= 250


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 90), (3, 2), (65, 33), (64, 129)])
def test_every_size_comes_out_four_times_larger(upscale: Upscale, height: int, width: int) -> None:
    result = upscale(photo(height, width))

    assert result.colour.shape == (4 * height, 4 * width, 3)
    assert result.alpha is None


@pytest.mark.parametrize("mode", AlphaMode)
def test_alpha_keeps_its_ends_and_its_place(upscale: Upscale, mode: AlphaMode) -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 30:] = 255
    result = upscale(photo(40, 60), alpha=alpha, mode=mode).alpha

    assert result is not None
    assert result.shape == (160, 240)
    assert (result[:, :116] == 0).all()
    assert (result[:, 124:] == 255).all()


def test_the_network_draws_an_edge_of_alpha_sharper_than_lanczos(upscale: Upscale) -> None:
    y, x = np.mgrid[0:64, 0:64] - 31.5
    alpha = (255 * np.clip(20.5 - np.hypot(x, y), 0, 1)).astype(np.uint8)
    by_network, by_lanczos = (
        upscale(photo(64, 64), alpha=alpha, mode=mode).alpha for mode in AlphaMode
    )

    def undecided(result: Pixels) -> int:
        return int(((result > 25) & (result < 230)).sum())

    assert undecided(by_network) < 0.8 * undecided(by_lanczos)


@pytest.mark.parametrize("hidden", [(0, 0, 0), (0, 255, 0)])
def test_no_fringe_of_what_is_hidden_shows_around_a_cut_out(
    upscale: Upscale, hidden: tuple[int, int, int]
) -> None:
    y, x = np.mgrid[0:64, 0:64] - 31.5
    inside = np.hypot(x, y) < 20
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    colour = np.where(inside[..., None], (230, 200, 180), hidden).astype(np.uint8)
    result = upscale(colour, alpha=alpha, trade_off=1.0)

    assert result.alpha is not None
    seen = result.colour[result.alpha > 0].astype(int)
    assert np.abs(seen - (230, 200, 180)).max() <= 1


@pytest.mark.slow
def test_several_slider_positions_at_once_equal_single_ones(upscale: Upscale) -> None:
    picture = photo(90, 100)
    picture[:60, :60] = 200
    alpha = np.full((90, 100), 255, np.uint8)
    alpha[40:] = 77
    together = upscale(picture, alpha=alpha, weights=EVERYTHING)

    for weights, found in zip(EVERYTHING, together, strict=True):
        (alone,) = upscale(picture, alpha=alpha, weights=[weights])
        assert np.abs(found.colour.astype(int) - alone.colour).max() <= 1
        assert (found.alpha is None) == (weights is MASK)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.slow
def test_the_mask_is_grey_in_8_bits_and_0_where_nothing_was_invented(
    upscale: Upscale, kind: type
) -> None:
    picture = photo(140, 140)
    picture[:70, :70] = 200
    (mask,) = upscale(picture.astype(kind) * (np.iinfo(kind).max // 255), weights=[MASK])

    assert mask.grey
    assert mask.colour.dtype == np.uint8
    assert mask.colour.shape == (560, 560, 3)
    assert (mask.colour[:90, :90] == 0).all()
    assert mask.colour[300:, 300:].mean() > 50


def test_progress_counts_each_tile_once(upscale: Upscale) -> None:
    told: list[tuple[int, int]] = []
    upscale(
        photo(70, 90), weights=EVERYTHING, progress=lambda done, tiles: told.append((done, tiles))
    )

    assert told == [(done, 9) for done in range(10)]


def test_a_grey_picture_comes_out_without_a_tint(upscale: Upscale) -> None:
    grey = np.repeat(photo(70, 90)[..., :1], 3, axis=-1)
    result = upscale(grey, grey=True, trade_off=0.0)

    assert result.grey
    assert result.colour.shape == (280, 360, 3)
    assert (result.colour == result.colour[..., :1]).all()
    luma = upscale(grey, trade_off=0.0).colour @ (0.299, 0.587, 0.114)
    assert np.abs(result.colour[..., 0] - luma).max() <= 1


def reduced(colour: Pixels) -> NDArray[np.float64]:
    """Reduce a result with the protocol's bicubic: (H, W, 3)."""
    import torch

    from model.resize import bicubic_down

    planes = torch.from_numpy(np.ascontiguousarray(colour)).permute(2, 0, 1).double()
    return bicubic_down(planes).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("trade_off", [0.0, 0.5, 1.0])
@pytest.mark.slow
def test_a_consistent_result_gives_the_picture_again_when_it_is_reduced(
    upscale: Upscale, trade_off: float
) -> None:
    picture = photo(70, 90) // 2 + 64
    free, bound = (
        np.abs(reduced(upscale(picture, trade_off=trade_off, consistent=on).colour) - picture)
        for on in (False, True)
    )

    assert bound.mean() < 0.7 * free.mean()


@pytest.mark.slow
def test_a_consistent_result_has_no_seams_either(upscale: Upscale) -> None:
    picture = photo(120, 140)
    tiled = upscale(picture, trade_off=1.0, consistent=True).colour.astype(np.int16)
    whole = upscale(picture, trade_off=1.0, consistent=True, tile=192).colour.astype(np.int16)

    assert np.abs(tiled - whole).max() <= 2


@pytest.mark.parametrize("level", [255, 128, 0])
def test_a_consistent_result_of_nearly_one_colour_stays_within_one_level_of_it(
    upscale: Upscale, level: int
) -> None:
    picture = np.full((120, 120, 3), level, np.uint8)
    picture[60, 60] = 128 if level != 128 else 255
    result = upscale(picture, consistent=True).colour.astype(np.int16)

    near = slice(SCALE * (60 - HALO), SCALE * (61 + HALO))
    result[near, near] = level
    assert np.abs(result - level).max() <= 1


def test_16_bits_come_out_finer_than_8_and_mean_the_same(upscale: Upscale) -> None:
    picture = photo(60, 70)
    deep = upscale(picture.astype(np.uint16) * 257).colour

    assert deep.dtype == np.uint16
    assert len(np.unique(deep)) > 2000
    assert np.abs(deep / 257 - upscale(picture).colour).max() <= 0.51


def test_the_input_is_left_as_it_was(upscale: Upscale) -> None:
    picture = photo(70, 70)
    before = picture.copy()
    upscale(picture)

    np.testing.assert_array_equal(picture, before)
