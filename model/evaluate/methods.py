"""Upscaling methods: bicubic, GDSR, and other networks for comparison.

Networks run in float32 on the whole picture, with the same mirrored context as in the service.

Shapes: H x W low-resolution pixels of RGB; c pixels of context.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from model.gdsr import GDSR, OUTPUTS, PARTS, SCALE
from model.postprocessing import back_projected, limit_ringing, postprocess
from model.resize import bicubic_up, inner
from model.trainer.validation import CONTEXT, with_context

Method = Callable[[Tensor], Mapping[str, Tensor]]
"""Bytes of (3, H, W) -> images of (3, 4H, 4W) by name: RGB in [0, 1]; those of peers are not
clamped."""

BICUBIC = "bicubic"
MASK = "mask"


def bicubic(lr: Tensor) -> dict[str, Tensor]:
    """The protocol's bicubic upscaling, rounded to bytes after each pass."""
    return {BICUBIC: bicubic_up(lr).float().div(255)}


def unrounded_bicubic(lr: Tensor) -> dict[str, Tensor]:
    """Bicubic upscaling without rounding, which may leave the range of bytes."""
    return {BICUBIC: bicubic_up(lr.float().div(255))}


def of_generator(
    lr: Tensor, *, generator: GDSR, back_projection: bool = False
) -> dict[str, Tensor]:
    """GDSR's outputs, and its mask of (1, 4H, 4W).

    With `back_projection` each output is corrected so that it downscales to its input.

    Raises:
        ValueError: an output is not finite.
    """
    context = with_context(lr)
    parts = generator(context, PARTS)
    images: dict[str, Tensor] = {
        output: _finished(
            postprocess(getattr(parts, output), context), lr,
            name=output, back_projection=back_projection,
        )
        for output in OUTPUTS
    }  # fmt: skip
    if back_projection:  # which may leave the range again
        around = lr[None].float().div(255)
        images = {name: limit_ringing(image[None], around)[0] for name, image in images.items()}
    return {**images, MASK: inner(parts.mask, SCALE * CONTEXT)[0]}


def of_peer(
    lr: Tensor, *, network: nn.Module, name: str, back_projection: bool = False
) -> dict[str, Tensor]:
    """The output of another network, (N, 3, H, W) -> (N, 3, 4H, 4W), run as GDSR is.

    Raises:
        ValueError: the output is not finite.
    """
    image: Tensor = network(with_context(lr))
    return {name: _finished(image, lr, name=name, back_projection=back_projection)}


def _finished(image: Tensor, lr: Tensor, *, name: str, back_projection: bool) -> Tensor:
    """(1, 3, 4H + 8c, 4W + 8c) -> (3, 4H, 4W)."""
    image = inner(image, SCALE * CONTEXT)
    if back_projection:
        image = back_projected(image, lr[None].float().div(255))
    if not image.isfinite().all():
        raise ValueError(f"the network's output {name} is not finite")
    return image[0]
