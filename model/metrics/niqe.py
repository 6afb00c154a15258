"""NIQE: how far a picture's statistics are from those of natural ones; lower is better.

Mittal, Soundararajan and Bovik, "Making a Completely Blind Image Quality Analyzer", IEEE Signal
Processing Letters 20 (2013), doi:10.1109/LSP.2012.2227726. Numbers in parentheses are its
equations. It is computed as the authors' MATLAB program does, quirks included: neighbours wrap
around at the edge of a block, and a block without any texture counts with the smallest shape.

Luma (Y) is that of BT.601 in the studio range, rounded to whole levels; 4 pixels at each border are
left out, as in `model.metrics.fidelity`.

Shapes: H x W pixels, B blocks of P x P pixels, F = 36 features, 18 at each of two scales.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.checkpoint import CheckpointInvalid
from model.metrics.fidelity import BORDER, studio_luma

BLOCK = 96
SMALLEST = (BLOCK + 2 * BORDER, 2 * BLOCK + 2 * BORDER)
"""Minimum shorter and longer side of a picture: two blocks within the border."""

_FEATURES = 36
_WINDOW = 7
_ROUNDING = 1e-9  # levels
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, below, on both diagonals
_HALVING = (-3, -9, 29, 111, 111, 29, -9, -3)  # in 256ths: the bicubic kernel, stretched by 2
_FIELDS = {
    "mu_pris_param": (1, _FEATURES),
    "cov_pris_param": (_FEATURES, _FEATURES),
    "gaussian_window": (_WINDOW, _WINDOW),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pristine:
    """Multivariate Gaussian of the features of natural pictures, in float64."""

    mean: Tensor
    """(F,)"""
    covariance: Tensor
    """(F, F)"""
    window: Tensor
    """(7, 7) weights of the local mean; they add up to 1."""


def load_pristine(path: Path) -> Pristine:
    """The parameters from an `.npz` file, with the names of BasicSR.

    Raises:
        CheckpointInvalid: the file does not contain them.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            values = {name: torch.from_numpy(arrays[name]).double() for name in _FIELDS}
    except (BadZipFile, EOFError, KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointInvalid(f"this does not hold {', '.join(_FIELDS)}") from None
    for name, shape in _FIELDS.items():
        if values[name].shape != shape:
            raise CheckpointInvalid(f"{name} has the shape {list(values[name].shape)}")
    return Pristine(
        mean=values["mu_pris_param"][0],
        covariance=values["cov_pris_param"],
        window=values["gaussian_window"],
    )


def niqe(image: Tensor, pristine: Pristine, *, border: int = BORDER) -> float:
    """NIQE of RGB bytes, (3, H, W); NaN for a picture without any texture.

    Raises:
        ValueError: the picture has fewer than two blocks, too few for their covariance.
    """
    height, width = (side - 2 * border for side in image.shape[-2:])
    if image.ndim != 3 or min(height, width) < BLOCK or max(height, width) < 2 * BLOCK:
        raise ValueError(
            f"an image has {tuple(image.shape)}; NIQE needs {BLOCK}x{2 * BLOCK} inside"
        )
    inner = image[:, border : border + height, border : border + width]
    found = features(studio_luma(inner).round(), pristine.window.to(image.device)).cpu()  # (B, F)
    whole = found[~found.isnan().any(dim=1)]
    if len(whole) < 2:
        return float("nan")
    off = pristine.mean - found.nanmean(dim=0)
    together = (pristine.covariance + whole.T.cov()) / 2
    return float((off @ torch.linalg.pinv(together) @ off).sqrt())  # (10)


def features(luma: Tensor, window: Tensor) -> Tensor:
    """The features of each block: (H, W) -> (B, F), both in float64.

    Incomplete blocks at the right and at the bottom are ignored.
    """
    rows, columns = luma.shape[0] // BLOCK, luma.shape[1] // BLOCK
    plane = luma[: rows * BLOCK, : columns * BLOCK]
    scales = []
    for side in (BLOCK, BLOCK // 2):
        blocks = _normalised(plane, window).view(rows, side, columns, side).transpose(1, 2)
        scales.append(_of_blocks(blocks.reshape(-1, side, side)))  # (B, F / 2)
        plane = _halved(plane)
    return torch.cat(scales, dim=1)


def generalised_gaussian(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalised Gaussian: (B, ...) -> shape, left and right scale, (B,) each.

    The shape is 2 for normal samples and 1 for Laplacian ones. By the moments of Lasmar, Stitou
    and Berthoumieu, ICIP 2009, which (3) to (7) cite.
    """
    samples = samples.flatten(1)  # (B, P * P)
    squares = samples.square()
    left = _mean_where(squares, samples < 0).sqrt()
    right = _mean_where(squares, samples > 0).sqrt()
    ratio = left / right
    moments = samples.abs().mean(dim=1).square() / squares.mean(dim=1)
    moments = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1).square()
    shapes, midpoints = (table.to(samples.device) for table in _shapes())
    # MATLAB's minimum over only NaN is the first.
    shape = shapes[torch.bucketize(moments.nan_to_num(nan=0.0), midpoints)]
    spread = ((1 / shape).lgamma() - (3 / shape).lgamma()).div(2).exp()
    return shape, left * spread, right * spread


def _of_blocks(blocks: Tensor) -> Tensor:
    """The features at one scale: (B, P, P) -> (B, 18)."""
    shape, left, right = generalised_gaussian(blocks)
    found = [shape, (left + right) / 2]
    for neighbour in _NEIGHBOURS:
        shape, left, right = generalised_gaussian(blocks * blocks.roll(neighbour, dims=(1, 2)))
        mean = (right - left) * ((2 / shape).lgamma() - (1 / shape).lgamma()).exp()  # (8)
        found += [shape, mean, left, right]
    return torch.stack(found, dim=1)


def _normalised(plane: Tensor, window: Tensor) -> Tensor:
    """Normalised by local mean and contrast, (1): (H, W) -> (H, W)."""
    around = (_WINDOW // 2,) * 4
    both = torch.stack((plane, plane.square()))[:, None]  # (2, 1, H, W)
    mean, square = F.conv2d(F.pad(both, around, mode="replicate"), window[None, None])[:, 0]
    off = plane - mean
    # Constant areas are exactly 0, as in MATLAB; otherwise rounding noise would be counted.
    off = torch.where(off.abs() < _ROUNDING, 0.0, off)
    normalised: Tensor = off / ((square - mean.square()).abs().sqrt() + 1)
    return normalised


def _halved(plane: Tensor) -> Tensor:
    """MATLAB's bicubic with antialiasing, mirrored at the border: (H, W) -> (H / 2, W / 2)."""
    kernel = torch.tensor(_HALVING, dtype=plane.dtype, device=plane.device) / sum(_HALVING)
    for _ in range(2):  # rows, then columns
        taller = torch.cat((plane[:3].flip(0), plane, plane[-3:].flip(0)))  # (H + 6, W)
        plane = F.conv2d(taller[None, None], kernel.view(1, 1, -1, 1), stride=(2, 1))[0, 0].T
    return plane


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Means of the selected values, NaN if there is none: (B, K) -> (B,)."""
    return (values * chosen).sum(dim=1) / chosen.sum(dim=1)


@lru_cache(maxsize=1)
def _shapes() -> tuple[Tensor, Tensor]:
    """Shapes 0.2, 0.201 ... 10, and the moment ratios halfway between theirs, ascending."""
    with torch.inference_mode(mode=False):  # cached, and used in any inference mode
        shapes = torch.arange(200, 10_001, dtype=torch.float64) / 1000
        first, second, third = (torch.lgamma(order / shapes) for order in (1, 2, 3))
        ratios = (2 * second - first - third).exp()
        return shapes, (ratios[1:] + ratios[:-1]) / 2
