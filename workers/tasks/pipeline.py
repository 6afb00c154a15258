"""The pipeline of one picture: cut into tiles, compute, stitch; for a command also encode."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from workers.contract.images.formats import ResultFormat
from workers.contract.images.options import AlphaMode
from workers.contract.queue.jobs import UpscaleChoices
from workers.engine.client import Engine
from workers.engine.protocol import FEATHER, HALO
from workers.pictures.colour.alpha import bleed_alpha, enlarge_by_lanczos, restore_extremes
from workers.pictures.encode import encode
from workers.pictures.finish import marked_as_made, postprocess, preprocess
from workers.pictures.picture import Picture, Plane, scaled
from workers.tiles.tiling import Canvas, Pixels, TilePlan, cheapest_plan, cut, flat_result, is_flat
from workers.tiles.trade_off import Weights, output_weights

Progress = Callable[[int, int], None]
"""Called with the number of finished tiles and the total."""
Results = Sequence[Pixels]
"""The outputs of one tile: (4T, 4T, 3) for each of the weights."""
Shape = Callable[[Pixels], Plane]
"""The part of an output (4T, 4T, 3) that is stitched."""

#: Rec. 601 luma weights, in 1/256.
_LUMA = np.array([77, 150, 29], np.uint32)


def enlarge(
    picture: Picture,
    engine: Engine,
    choices: UpscaleChoices,
    *,
    model: str,
    format: ResultFormat,  # noqa: A002
    mark: bool,
    progress: Progress,
) -> tuple[Picture, bytes]:
    """Upscale a decoded picture as a job does, without a queue; return the result and its file.

    Raises:
        GDSRError: the engine failed, or the format cannot hold the result.
    """
    (large,) = upscale_outputs(
        preprocess(picture, choices, format),
        engine,
        model=model,
        weights=[output_weights(choices.trade_off)],
        progress=progress,
        alpha=choices.alpha,
        consistent=choices.consistency,
    )
    large = postprocess(large, choices)
    if mark:
        large = marked_as_made(large, trade_off=choices.trade_off)
    return large, encode(large, format=format, quality=choices.quality, lossless=choices.lossless)


def upscale_outputs(
    picture: Picture,
    engine: Engine,
    *,
    model: str,
    weights: Sequence[Weights],
    progress: Progress,
    alpha: AlphaMode = AlphaMode.MODEL,
    consistent: bool | None = None,
) -> list[Picture]:
    """Enlarge the picture four times, once for each of the weights.

    Tiles of one colour are not sent to the engine: the result is that colour. Grey pictures stay
    grey. Transparency is enlarged by the network's faithful branch as a grey picture, or by
    Lanczos; fully clear and fully opaque areas stay exact. `consistent` applies back-projection, so
    that the reduced result equals the picture. The mask is an opaque grey picture of 8 bits, 0
    where only the faithful branch counts, as in tiles of one colour.

    Raises:
        GDSRError: the engine failed.
    """
    plan = cheapest_plan(
        engine.tiles, height=picture.height, width=picture.width, halo=HALO, feather=FEATHER
    )
    by_model = picture.alpha is not None and alpha is AlphaMode.MODEL
    done, total = 0, len(plan) * (2 if by_model else 1)
    progress(0, total)

    def counted(results: Iterator[Results]) -> Iterator[Results]:
        nonlocal done
        for result in results:
            yield result
            done += 1
            progress(done, total)

    colour = picture.colour if picture.alpha is None else bleed_alpha(picture.colour, picture.alpha)
    shapes = [_mask if row.mask else _grey if picture.grey else _coloured for row in weights]
    results = _infer(engine, cut(colour, plan), model, weights, consistent=consistent)
    colours = _stitched(counted(results), plan, shapes)
    enlarged: Plane | None = None
    if by_model and picture.alpha is not None:
        grey = np.broadcast_to(picture.alpha[..., None], picture.colour.shape)
        faithful = [output_weights(0)]
        results = _infer(engine, cut(grey, plan), model, faithful, consistent=False)
        (found,) = _stitched(counted(results), plan, [_grey])
        enlarged = found[..., 0]
    elif picture.alpha is not None:
        enlarged = enlarge_by_lanczos(picture.alpha)
    if enlarged is not None and picture.alpha is not None:
        restore_extremes(enlarged, picture.alpha)
    return [
        Picture(colour=_three_channels(colour), grey=True, dpi=picture.dpi)
        if row.mask
        else replace(picture, colour=_three_channels(colour), alpha=enlarged)
        for colour, row in zip(colours, weights, strict=True)
    ]


def _infer(
    engine: Engine,
    tiles: Iterator[Pixels],
    model: str,
    weights: Sequence[Weights],
    *,
    consistent: bool | None = None,
) -> Iterator[Results]:
    """The results in tile order; only tiles of more than one colour go to the engine."""
    # Tiles that are not answered yet: the flat tile, or None for one that was sent.
    order: deque[Pixels | None] = deque()

    def to_send() -> Iterator[Pixels]:
        for tile in tiles:
            if is_flat(tile):
                order.append(np.broadcast_to(tile[0, 0].copy(), tile.shape))
            else:
                order.append(None)
                yield tile

    def flats() -> Iterator[Results]:
        while order and (flat := order[0]) is not None:
            order.popleft()
            plain = flat_result(flat)
            yield [np.zeros_like(plain) if row.mask else plain for row in weights]

    for results in engine.run(to_send(), model=model, weights=weights, consistent=consistent):
        yield from flats()
        order.popleft()
        yield list(results)
    yield from flats()


def _stitched(results: Iterator[Results], plan: TilePlan, shapes: Sequence[Shape]) -> list[Plane]:
    """A picture of each shape: (4H, 4W, 3), or (4H, 4W, 1) of grey and of the mask."""
    canvases = [Canvas(plan) for _ in shapes]
    for pieces in results:
        for canvas, shape, piece in zip(canvases, shapes, pieces, strict=True):
            canvas.add(shape(piece))
    return [canvas.whole() for canvas in canvases]


def _coloured(tile: Pixels) -> Plane:
    return tile


def _mask(tile: Pixels) -> Plane:
    return scaled(tile[..., :1], 8 * tile.itemsize, 8)


def _grey(tile: Pixels) -> Plane:
    """The luma of a result; the network may tint grey pictures: (4T, 4T, 1)."""
    levels: Plane = ((tile @ _LUMA + 128) >> 8).astype(tile.dtype)[..., None]
    return levels


def _three_channels(colour: Plane) -> Plane:
    """(H, W, 1 or 3) -> (H, W, 3)."""
    return colour if colour.shape[2] == 3 else np.broadcast_to(colour, (*colour.shape[:2], 3))
