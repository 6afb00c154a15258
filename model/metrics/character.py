"""The character of an enlarged picture: what a score against the original does not tell.

Whether it still shows the input, whether it is lighter or darker, whether it is woven into a mesh,
and how far it leaves the levels that it was made from.

Shapes: H x W low-resolution pixels. Pictures are bytes of RGB; differences are in grey levels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.gdsr import SCALE
from model.resize import bicubic_down

_LUMA = (0.299, 0.587, 0.114)  # BT.601, all of 0 to 255
_MEAN = 9  # pixels: the side of the square whose mean is taken away
_WINDOW, _STRIDE = 96, 48  # pixels
_LEAST_ALLOWANCE, _ALLOWED = 0.7, 1.5

SMALLEST_FOR_MESH = _WINDOW + _MEAN - 1
"""The shorter side of a picture in which a window fits, in pixels."""


def lr_psnr(sr: Tensor, lr: Tensor) -> float:
    """How well a result still shows its input: PSNR in dB of all channels, infinite if exactly.

    (3, 4H, 4W) is made smaller by the protocol's bicubic, to bytes again, and compared with
    (3, H, W). Lugmayr, Danelljan and Timofte, "NTIRE 2021 Learning the Super-Resolution Space
    Challenge", CVPRW 2021.

    Raises:
        ValueError: the result is not 4 times as large as the input.
    """
    reduced = bicubic_down(sr)
    if reduced.shape != lr.shape:
        raise ValueError(f"{tuple(sr.shape)} is not {SCALE} times {tuple(lr.shape)}")
    mean = float((reduced.double() - lr.double()).square().mean())
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def mean_shift(image: Tensor, like: Tensor) -> float:
    """How much lighter or darker than another: that of the channel whose mean moved most.

    Both are (3, H, W); the value is not negative.
    """
    shifts = (image.double() - like.double()).mean(dim=(1, 2))  # (3,)
    return float(shifts.abs().max())


def mesh(image: Tensor) -> float:
    """How strong the pattern is that repeats every 4x4 pixels: (3, 4H, 4W) -> grey levels.

    Luma less the mean of the 9x9 pixels around, where these are all there, is cut into windows of
    96x96 pixels, 48 apart; less than 48 pixels at the right and at the bottom are not looked at. In
    a window each of the sixteen phases (y mod 4, x mod 4) has a median; the root mean square of
    these, less their mean, is the window's mesh. The picture's is the median of its windows'.

    Raises:
        ValueError: the picture is too small for a window.
    """
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST_FOR_MESH:
        least = f"{SMALLEST_FOR_MESH}x{SMALLEST_FOR_MESH}"
        raise ValueError(f"a picture has {width}x{height} pixels; its mesh needs {least}")
    weights = torch.tensor(_LUMA, dtype=torch.float64, device=image.device)
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
    """What mesh a result may have where that of the original is this, in grey levels."""
    return max(_LEAST_ALLOWANCE, _ALLOWED * original)


def overshoot(image: Tensor, lr: Tensor) -> float:
    """How far a result leaves the levels of its input, at worst; 0 where it does not.

    `image` is (3, 4H, 4W) in [0, 1] and not clamped; `lr` is (3, H, W) bytes. Each channel is held
    against its own darkest and lightest level.
    """
    levels = image.double().mul(255).flatten(1)
    bounds = lr.double().flatten(1)
    above = levels.amax(dim=1) - bounds.amax(dim=1)
    below = bounds.amin(dim=1) - levels.amin(dim=1)
    return float(torch.cat((above, below)).max().clamp(min=0))


def _median(values: Tensor) -> Tensor:
    """Over the last dimension; of an even number the mean of the middle two, unlike torch's."""
    ordered = values.sort(dim=-1).values
    count = ordered.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2
