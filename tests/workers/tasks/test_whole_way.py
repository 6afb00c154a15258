"""Uploads are upscaled correctly from bytes to bytes through the shipped network, by checks that
are independent of the individual steps.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers itself
import pytest
from factories import Pixels, luma, photo, saved, transparency

from model.process import prepare_process
from workers.contract.images.formats import ResultFormat
from workers.contract.images.options import PictureChoices
from workers.contract.settings import WorkerSettings
from workers.engine.checkpoints import checkpoint_files
from workers.pictures.decode import decode
from workers.pictures.encode import encode
from workers.pictures.finish import postprocess, preprocess
from workers.pictures.picture import Picture
from workers.tasks.pipeline import upscale_outputs
from workers.tiles.trade_off import output_weights

pillow_heif.register_heif_opener()  # the tests write HEIC

Upscale = Callable[..., Picture]


@pytest.fixture(scope="module")
def upscale() -> Upscale:
    """Upscale an upload to the picture before encoding; results are cached."""
    prepare_process(None)
    from workers.engine.loading import load_engine
    from workers.engine.local import InProcessEngine

    lite = next(path for path in checkpoint_files(()) if path.stem == "lite")
    settings = WorkerSettings(checkpoints=(lite,), precision="float32", tile=64)
    engine = InProcessEngine(load_engine(settings, "cpu"))

    @cache
    def run(data: bytes, **chosen: object) -> Picture:
        choices = PictureChoices.model_validate(chosen)
        (picture,) = upscale_outputs(
            preprocess(decode(data, max_pixels=10_000, icc=choices.icc), choices, ResultFormat.PNG),
            engine,
            model="lite",
            weights=[output_weights(0)],
            progress=lambda *_: None,
            alpha=choices.alpha,
        )
        return postprocess(picture, choices)

    return run


def again(picture: Picture, result: ResultFormat = ResultFormat.PNG, quality: int = 90) -> Picture:
    """Return the pixels of the encoded result."""
    return decode(encode(picture, format=result, quality=quality), max_pixels=200_000)


#: How each EXIF orientation is turned upright.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_the_upscale_of_a_turned_picture_lies_where_the_turn_of_the_upscale_does(
    upscale: Upscale, orientation: int
) -> None:
    """The network treats directions nearly alike; a shift by one pixel would differ more."""
    turn = TURNS[orientation]
    colour = np.kron(photo(12, 18, seed=5), np.ones((3, 3, 1), np.uint8))  # gives it edges
    turned = upscale(saved(np.ascontiguousarray(turn(colour)), "PNG")).colour.astype(int)
    upright = turn(upscale(saved(colour, "PNG")).colour).astype(int)
    off = {
        (down, across): np.abs(np.roll(turned, (down, across), axis=(0, 1)) - upright).mean()
        for down in (-1, 0, 1)
        for across in (-1, 0, 1)
    }

    assert min(off, key=lambda slip: off[slip]) == (0, 0)
    assert off[0, 0] < 2


WHITE = np.full((21, 35, 3), 255, np.uint8)


@pytest.mark.parametrize("result", ResultFormat)
@pytest.mark.parametrize("quality", [90, 100])
def test_white_stays_white_in_every_format(
    upscale: Upscale, result: ResultFormat, quality: int
) -> None:
    assert again(upscale(saved(WHITE, "PNG")), result, quality).colour.min() == 255


@pytest.mark.parametrize(
    "source", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF", "HEIF", "JXL"]
)
def test_white_stays_white_out_of_every_format(upscale: Upscale, source: str) -> None:
    assert again(upscale(saved(WHITE, source))).colour.min() == 255


@pytest.mark.parametrize("result", ResultFormat)
@pytest.mark.parametrize("clear", [False, True])
def test_grey_gets_no_tint_in_any_format(
    upscale: Upscale,
    result: ResultFormat,
    clear: bool,  # noqa: FBT001
) -> None:
    grey = luma(photo(21, 35))
    source = np.dstack((grey, transparency(21, 35))) if clear else grey
    background = "#ffffff" if clear and result is ResultFormat.JPEG else None
    picture = again(upscale(saved(source, "PNG"), background=background), result)
    tint = np.ptp(picture.colour.astype(int), axis=2)

    # WebP has no grey, so a colour may be rounded by a level.
    assert tint.max() <= (1 if result is ResultFormat.WEBP else 0)
