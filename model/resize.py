"""Bicubic resizing by 4 as in the evaluation protocol, and image borders.

Resizing works on any device and in batch. It follows MATLAB's imresize, which made the public
benchmarks: the cubic kernel with a = -0.5, stretched by 4 for downscaling, rows first, border
pixels replicated. Bytes are rounded after each pass, halves up; floating-point images are not, so
gradients pass through.

All weights are multiples of 1/4096 that fit ten bits, so sums of bytes are exact in float32 and
TF32: every device gives the same bytes.

Context is mirrored with the border pixel repeated, because pixels are areas and the border of an
image is the edge of its last ones. A reflection without repetition is shifted by half a pixel, to
which networks are sensitive: PSNR within 4 pixels of the border is 1 dB lower.

Shapes: ... any leading dimensions, H x W low-resolution pixels.
"""

from functools import lru_cache

import torch
from torch import Tensor

from model.gdsr import SCALE


def bicubic_down(images: Tensor) -> Tensor:
    """(..., 4H, 4W) -> (..., H, W), of the same dtype.

    Raises:
        ValueError: a side is not a multiple of 4.
    """
    height, width = images.shape[-2:]
    if height % SCALE or width % SCALE:
        raise ValueError(f"{width}x{height} is not a multiple of {SCALE}")
    return _resize(images, height // SCALE, width // SCALE)


def bicubic_up(images: Tensor) -> Tensor:
    """(..., H, W) -> (..., 4H, 4W), of the same dtype."""
    height, width = images.shape[-2:]
    return _resize(images, height * SCALE, width * SCALE)


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    rows = _weights(images.shape[-2], height, images.device)
    columns = _weights(images.shape[-1], width, images.device)
    exact = images.dtype == torch.uint8
    with torch.autocast(images.device.type, enabled=False):
        resized = rows @ images.float()
        resized = _levels(resized) if exact else resized
        resized = resized @ columns.T
        resized = _levels(resized) if exact else resized
    return resized.to(images.dtype)


def _levels(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _weights(size: int, resized: int, device: torch.device) -> Tensor:
    """Weight of each of `size` pixels in each of `resized`: (resized, size)."""
    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
    ):  # cached, and used in any inference mode
        stretch = max(1.0, size / resized)
        reach = int(2 * stretch)
        centres = (torch.arange(resized, dtype=torch.float64) + 0.5) * size / resized - 0.5
        taps = centres.floor()[:, None] + torch.arange(1 - reach, reach + 1)
        shares = cubic((centres[:, None] - taps) / stretch, -0.5) / stretch
        inside = taps.clamp(0, size - 1).long()
        weights = torch.zeros(resized, size, dtype=torch.float64).scatter_add_(1, inside, shares)
        return weights.float().to(device)


def cubic(x: Tensor, a: float) -> Tensor:
    """Keys' cubic kernel at the distances `x`."""
    x = x.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def to_bytes(images: Tensor) -> Tensor:
    """Convert floating-point images in [0, 1], or beyond, to bytes of the same shape."""
    return images.mul(255).round().clamp(0, 255).to(torch.uint8)


def mirrored(images: Tensor, context: int) -> Tensor:
    """Add `context` mirrored pixels at each side: (..., H, W) -> (..., H + 2c, W + 2c).

    An image that is smaller than the context is mirrored several times.
    """
    if not context:
        return images
    for side in (-2, -1):
        length = images.shape[side]
        period = torch.arange(-context, length + context, device=images.device) % (2 * length)
        images = images.index_select(side, torch.minimum(period, 2 * length - 1 - period))
    return images


def inner(images: Tensor, margin: int) -> Tensor:
    """Remove `margin` pixels at each side: (..., H, W) -> (..., H - 2m, W - 2m)."""
    height, width = images.shape[-2:]
    return images[..., margin : height - margin, margin : width - margin]
