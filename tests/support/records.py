"""Parts of job records for tests."""

from workers.contract.images.formats import ImageFormat, ResultFormat
from workers.contract.queue.engines import ModelInfo
from workers.contract.queue.jobs import ImageInfo, UpscaleOptions


def image_info(*, key: str = "inputs/a", width: int = 64, height: int = 48) -> ImageInfo:
    return ImageInfo(
        key=key, size=100, sha256="0" * 64, format=ImageFormat.PNG, width=width, height=height
    )


def options(*, model: str = "lite", trade_off: float = 0.5) -> UpscaleOptions:
    return UpscaleOptions(trade_off=trade_off, model=model, format=ResultFormat.PNG, quality=90)


def model_info(
    name: str = "lite", *, speed: float = 10_000.0, precision: str = "float32"
) -> ModelInfo:
    return ModelInfo(
        name=name, sha256="0" * 64, preset="lite", scale=4, card={}, precision=precision,
        pixels_per_second={"psnr": 3 * speed, "fused": speed, "gan": 2 * speed},
    )  # fmt: skip
