"""One picture through the network: cut, compute, stitch."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.engine.client import Engine
from workers.engine.protocol import FEATHER, HALO, SCALE
from workers.pictures.picture import Picture
from workers.tiling import cut, flat_result, is_flat, plan_tiles, stitch
from workers.tradeoff import Weights

Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with the tiles done and the tiles of all."""


def upscale_picture(
    picture: Picture, engine: Engine, *, model: str, weights: Weights, progress: Progress
) -> Picture:
    """The picture four times larger on each side.

    Tiles of one colour are not sent: they come out as exactly that colour. Alpha is enlarged by
    Lanczos, straight, as it came.

    Raises:
        GDSRError: the engine could not.
    """
    height, width, _ = picture.colour.shape
    plan = plan_tiles(height=height, width=width, tile=engine.tile, halo=HALO, feather=FEATHER)

    def counted(results: Iterator[Pixels]) -> Iterator[Pixels]:
        progress(0, len(plan))
        for done, result in enumerate(results, start=1):
            yield result
            progress(done, len(plan))

    results = _through(engine, cut(picture.colour, plan), model=model, weights=weights)
    colour = stitch(counted(results), plan)
    alpha = None if picture.alpha is None else _enlarge_alpha(picture.alpha)
    return replace(picture, colour=colour, alpha=alpha)


def _through(
    engine: Engine, tiles: Iterator[Pixels], *, model: str, weights: Weights
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

    for result in engine.run(to_send(), model=model, weights=weights):
        yield from flats()
        order.popleft()
        yield result
    yield from flats()


def _enlarge_alpha(alpha: Pixels) -> Pixels:
    height, width = alpha.shape
    enlarged = Image.fromarray(alpha).resize(
        (SCALE * width, SCALE * height), Image.Resampling.LANCZOS
    )
    return np.asarray(enlarged)
