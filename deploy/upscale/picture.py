"""Upscales a decoded picture as a job does, with the engine in this process and without a queue."""

from collections.abc import Callable

from workers.contract.images.formats import ResultFormat
from workers.contract.images.options import PictureChoices
from workers.engine.client import Engine
from workers.pictures.encode import encode
from workers.pictures.finish import marked_as_made, postprocess, preprocess
from workers.pictures.picture import Picture
from workers.tasks.pipeline import upscale_outputs
from workers.tiles.trade_off import output_weights


def enlarge(
    picture: Picture,
    engine: Engine,
    choices: PictureChoices,
    *,
    model: str,
    trade_off: float,
    format: ResultFormat,  # noqa: A002
    quality: int,
    mark: bool,
    progress: Callable[[int, int], None],
) -> tuple[Picture, bytes]:
    """Upscale a decoded picture; return the result and its encoded file.

    Raises:
        GDSRError: the engine failed, or the format cannot hold the result.
    """
    (large,) = upscale_outputs(
        preprocess(picture, choices, format),
        engine,
        model=model,
        weights=[output_weights(trade_off)],
        progress=progress,
        alpha=choices.alpha,
        consistent=choices.consistency,
    )
    large = postprocess(large, choices)
    if mark:
        large = marked_as_made(large, trade_off=trade_off)
    return large, encode(large, format=format, quality=quality, lossless=choices.lossless)
