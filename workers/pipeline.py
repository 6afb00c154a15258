"""One picture through the network: cut, compute, stitch."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from workers.contract.choices import AlphaMode
from workers.engine.client import Engine
from workers.engine.protocol import FEATHER, HALO, SCALE
from workers.pictures.alpha import enlarge_by_lanczos, keep_ends, unbleed
from workers.pictures.picture import Picture, Plane
from workers.tiling import Pixels, TilePlan, cut, flat_result, is_flat, plan_tiles, stitch
from workers.tradeoff import Weights, output_weights

Progress = Callable[[int, int], None]
"""Called with the tiles done and the tiles of all."""

#: Rec. 601's weights of red, green and blue in grey, in 1/256.
_LUMA = np.array([77, 150, 29], np.uint32)


def upscale_picture(
    picture: Picture,
    engine: Engine,
    *,
    model: str,
    weights: Weights,
    progress: Progress,
    alpha: AlphaMode = AlphaMode.MODEL,
    consistent: bool = False,
) -> Picture:
    """The picture four times larger on each side.

    Tiles of one colour are not sent: they come out as exactly that colour. Grey stays grey.
    Transparency goes through the network's faithful branch as a grey picture of its own, or through
    Lanczos; where it is clear or opaque all around it stays exactly so. A `consistent` result gives
    the picture again when it is reduced by four.

    Raises:
        GDSRError: the engine could not.
    """
    plan = plan_tiles(
        height=picture.height, width=picture.width, tile=engine.tile, halo=HALO, feather=FEATHER
    )
    by_model = picture.alpha is not None and alpha is AlphaMode.MODEL
    count = _Count(progress, tiles=len(plan) * (2 if by_model else 1))
    colour = picture.colour if picture.alpha is None else unbleed(picture.colour, picture.alpha)
    results = _through(engine, cut(colour, plan), model, weights, consistent=consistent)
    if picture.grey:
        colour = np.broadcast_to(_stitched_grey(count(results), plan), _enlarged_shape(plan))
    else:
        colour = stitch(count(results), plan)
    if picture.alpha is None:
        return replace(picture, colour=colour)
    if by_model:
        grey = np.broadcast_to(picture.alpha[..., None], picture.colour.shape)
        results = _through(engine, cut(grey, plan), model, output_weights(0))
        enlarged = _stitched_grey(count(results), plan)[..., 0]
    else:
        enlarged = enlarge_by_lanczos(picture.alpha, scale=SCALE)
    keep_ends(enlarged, picture.alpha)
    return replace(picture, colour=colour, alpha=enlarged)


class _Count:
    """Tells how many tiles are done, over all passes of a picture."""

    def __init__(self, progress: Progress, *, tiles: int) -> None:
        self._progress, self._tiles = progress, tiles
        self._done = 0
        progress(0, tiles)

    def __call__(self, results: Iterator[Pixels]) -> Iterator[Pixels]:
        for result in results:
            yield result
            self._done += 1
            self._progress(self._done, self._tiles)


def _through(
    engine: Engine,
    tiles: Iterator[Pixels],
    model: str,
    weights: Weights,
    *,
    consistent: bool = False,
) -> Iterator[Pixels]:
    """Results in the order of the tiles; only those of more than one colour reach the engine."""
    # What was cut and not yet answered: a flat tile, None for one that was sent.
    order: deque[Pixels | None] = deque()

    def to_send() -> Iterator[Pixels]:
        for tile in tiles:
            if is_flat(tile):
                order.append(np.broadcast_to(tile[0, 0].copy(), tile.shape))
            else:
                order.append(None)
                yield tile

    def flats() -> Iterator[Pixels]:
        while order and (flat := order[0]) is not None:
            order.popleft()
            yield flat_result(flat, scale=SCALE)

    for result in engine.run(to_send(), model=model, weights=weights, consistent=consistent):
        yield from flats()
        order.popleft()
        yield result
    yield from flats()


def _stitched_grey(results: Iterator[Pixels], plan: TilePlan) -> Plane:
    """The grey that colour results mean: (sH, sW, 1); the network may tint what had no colour."""
    greys = (_grey(result) for result in results)
    return stitch(greys, plan)


def _grey(tile: Pixels) -> Plane:
    levels: Plane = ((tile @ _LUMA + 128) >> 8).astype(tile.dtype)[..., None]
    return levels


def _enlarged_shape(plan: TilePlan) -> tuple[int, int, int]:
    return SCALE * plan.height, SCALE * plan.width, 3
