"""Measures of an upscaled picture beside quality scores.

Consistency with the input, brightness shift, mesh artefacts, and overshoot.

Shapes: H x W low-resolution pixels. Pictures are bytes of RGB; differences are in grey levels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.gdsr import SCALE
from model.metrics.fidelity import decibels
from model.resize import bicubic_down

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601, full range)."""
_MEAN = 9  # pixels: side of the box filter that is subtracted
_WINDOW, _STRIDE = 96, 48  # pixels
_MIN_ALLOWANCE, _ALLOWED_RATIO = 0.7, 1.5

SMALLEST_FOR_MESH = _WINDOW + _MEAN - 1
"""Minimum shorter side of a picture: one window."""


def lr_psnr(sr: Tensor, lr: Tensor) -> float:
    """Consistency of a result with its input: PSNR in dB over all channels, infinite if exact.

    (3, 4H, 4W) is downscaled by the protocol's bicubic, rounded to bytes, and compared with (3, H,
    W). Lugmayr, Danelljan and Timofte, "NTIRE 2021 Learning the Super-Resolution Space Challenge",
    CVPRW 2021.

    Raises:
        ValueError: the result is not 4 times as large as the input.
    """
    reduced = bicubic_down(sr)
    if reduced.shape != lr.shape:
        raise ValueError(f"{tuple(sr.shape)} is not {SCALE} times {tuple(lr.shape)}")
    return decibels((reduced.double() - lr.double()).square().mean())


def mean_shift(image: Tensor, like: Tensor) -> float:
    """Brightness shift: the largest absolute difference of a channel's mean.

    Both are (3, H, W); the value is not negative.
    """
    shifts = (image.double() - like.double()).mean(dim=(1, 2))  # (3,)
    return float(shifts.abs().max())


def mesh(image: Tensor) -> float:
    """Strength of a pattern that repeats every 4x4 pixels: (3, 4H, 4W) -> grey levels.

    Luma minus its 9x9 box filter, where that is complete, is cut into windows of 96x96 pixels, 48
    apart; a remainder of less than 48 pixels at the right and at the bottom is ignored. In a window
    each of the sixteen phases (y mod 4, x mod 4) has a median; the root mean square of these, minus
    their mean, is the window's mesh. The result is the median over windows.

    Raises:
        ValueError: the picture is smaller than a window.
    """
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST_FOR_MESH:
        least = f"{SMALLEST_FOR_MESH}x{SMALLEST_FOR_MESH}"
        raise ValueError(f"a picture has {width}x{height} pixels; its mesh needs {least}")
    weights = torch.tensor(LUMA, dtype=torch.float64, device=image.device)
    luma = torch.einsum("c,chw->hw", weights, image.double())
    edge = _MEAN // 2
    around = F.avg_pool2d(luma[None, None], _MEAN, stride=1)[0, 0]
    detail = luma[edge:-edge, edge:-edge] - around
    windows = detail.unfold(0, _WINDOW, _STRIDE).unfold(1, _WINDOW, _STRIDE)  # (Y, X, 96, 96)
    cells = windows.unfold(2, SCALE, SCALE).unfold(3, SCALE, SCALE)  # (Y, X, 24, 24, 4, 4)
    phases = _median(cells.flatten(4).flatten(2, 3).transpose(2, 3))  # (Y, X, 16)
    strength = phases.var(dim=-1, correction=0).sqrt()  # (Y, X)
    return float(_median(strength.flatten()))


def mesh_allowance(original: float) -> float:
    """Maximum acceptable mesh of a result, given that of the original, in grey levels."""
    return max(_MIN_ALLOWANCE, _ALLOWED_RATIO * original)


def overshoot(image: Tensor, lr: Tensor) -> float:
    """Maximum overshoot of a result beyond the levels of its input; 0 if there is none.

    `image` is (3, 4H, 4W) in [0, 1] and not clamped; `lr` is (3, H, W) bytes. Each channel is
    compared with its own minimum and maximum.
    """
    levels = image.double().mul(255).flatten(1)
    bounds = lr.double().flatten(1)
    above = levels.amax(dim=1) - bounds.amax(dim=1)
    below = bounds.amin(dim=1) - levels.amin(dim=1)
    return float(torch.cat((above, below)).max().clamp(min=0))


def _median(values: Tensor) -> Tensor:
    """Over the last dimension; for an even number the mean of the middle two, unlike torch's."""
    ordered = values.sort(dim=-1).values
    count = ordered.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2
