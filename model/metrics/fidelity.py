"""Fidelity metrics of super-resolution papers, on the luma of BT.601.

Luma (Y) is in the studio range, 16 to 235, and 4 pixels at each border are ignored. Images are
bytes, RGB, (3, H, W). The protocol's downscaling is `model.resize.bicubic_down`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BORDER = 4
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr_y(sr: Tensor, hr: Tensor) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images.

    Raises:
        ValueError: the images differ in size, or nothing is left within the border.
    """
    return decibels((_luma(sr) - _luma(hr, like=sr)).square().mean())


def decibels(mean_square: Tensor | float) -> float:
    """The PSNR in dB of a mean squared difference in levels; infinite for 0."""
    return 10 * math.log10(255**2 / float(mean_square)) if mean_square else math.inf


def mse_y(sr: Tensor, hr: Tensor) -> float:
    """Mean squared error of luma rounded to integers, as in PIRM 2018.

    RMSE-Y of a set of images is the square root of the mean of these.

    Raises:
        ValueError: the images differ in size, or nothing is left within the border.
    """
    return float((_luma(sr).round() - _luma(hr, like=sr).round()).square().mean())


def ssim_y(sr: Tensor, hr: Tensor) -> float:
    """Structural similarity: 1 for equal images.

    Wang et al., IEEE TIP 13 (2004): a Gaussian window of 11x11, only where it fits.

    Raises:
        ValueError: the images differ in size, or the window does not fit within the border.
    """
    x, y = _luma(sr), _luma(hr, like=sr)
    if min(x.shape[-2:]) < _WINDOW:
        least = _WINDOW + 2 * BORDER
        raise ValueError(f"an image has {tuple(sr.shape)}; SSIM needs {least} x {least} pixels")
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x**2
    variance_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return float((luminance * structure).mean())


def _luma(image: Tensor, *, like: Tensor | None = None) -> Tensor:
    """Y within the border, not rounded: (1, 1, H - 8, W - 8) in float64."""
    if like is not None and like.shape != image.shape:
        raise ValueError(f"the images have {tuple(like.shape)} and {tuple(image.shape)}")
    if image.ndim != 3 or min(image.shape[-2:]) <= 2 * BORDER:
        raise ValueError(
            f"an image has {tuple(image.shape)}; it must be (3, H, W) with more than {2 * BORDER}"
        )
    return studio_luma(image)[None, None, BORDER:-BORDER, BORDER:-BORDER]


def studio_luma(image: Tensor) -> Tensor:
    """Luma (Y) of BT.601 in the studio range, not rounded: (3, H, W) bytes -> (H, W) in float64."""
    red, green, blue = image.double()
    luma: Tensor = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    return luma


def _windowed(image: Tensor) -> Tensor:
    """Weighted mean of every window: (1, 1, H, W) -> (1, 1, H - 10, W - 10)."""
    steps = torch.arange(_WINDOW, dtype=image.dtype, device=image.device) - _WINDOW // 2
    weights = torch.exp(-(steps**2) / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    columns: Tensor = F.conv2d(image, weights.view(1, 1, -1, 1))  # (1, 1, H - 10, W)
    means: Tensor = F.conv2d(columns, weights.view(1, 1, 1, -1))  # (1, 1, H - 10, W - 10)
    return means
