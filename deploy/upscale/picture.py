"""Upscales a decoded picture as a job does, with the engine in this process and without a queue."""

from collections.abc import Callable

from workers.contract.images.formats import ResultFormat
from workers.contract.queue.jobs import UpscaleChoices
from workers.engine.client import Engine
from workers.pictures.encode import encode
from workers.pictures.finish import marked_as_made, postprocess, preprocess
from workers.pictures.picture import Picture
from workers.tasks.pipeline import upscale_outputs
from workers.tiles.trade_off import output_weights


def enlarge(
    picture: Picture,
    engine: Engine,
    choices: UpscaleChoices,
    *,
    model: str,
    format: ResultFormat,  # noqa: A002
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
        weights=[output_weights(choices.trade_off)],
        progress=progress,
        alpha=choices.alpha,
        consistent=choices.consistency,
    )
    large = postprocess(large, choices)
    if mark:
        large = marked_as_made(large, trade_off=choices.trade_off)
    data = encode(large, format=format, quality=choices.quality, lossless=choices.lossless)
    return large, data
