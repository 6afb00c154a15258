"""All metrics of an evaluation, perceptual ones included.

PSNR-Y, SSIM-Y and RMSE-Y need no parameters. NIQE, LPIPS and DISTS need published parameters that
do not come with the project: a folder holds them, under the names of `_FILES`, and a metric without
its files is left out.

Shapes: N pictures of H x W pixels, bytes of RGB.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.checkpoint import CheckpointInvalid
from model.metrics.dists import DISTS
from model.metrics.fidelity import BORDER, mse_y, psnr_y, ssim_y
from model.metrics.lpips import LPIPS
from model.metrics.lpips import SMALLEST as SMALLEST_FOR_LPIPS
from model.metrics.niqe import SMALLEST as SMALLEST_FOR_NIQE
from model.metrics.niqe import load_pristine, niqe
from model.reference import read_reference

Judge = Callable[[Tensor, Tensor], list[float]]
"""Pictures, (N, 3, H, W), and the true one, (3, H, W) -> one value each."""

_FILES = {
    "niqe": (("niqe_pris_params.npz",),),
    "lpips": (
        ("alexnet_features.safetensors", "alexnet-owt-7be5be79.pth"),
        ("lpips_v0.1_alex_lin.safetensors", "alex.pth"),
    ),
    "dists": (
        ("vgg16_features.safetensors", "vgg16-397923af.pth"),
        ("dists_alpha_beta.safetensors", "weights.pt"),
    ),
}
"""Files of each metric: the first existing file of each line. The project's own names come first,
then the published names of torchvision, LPIPS and DISTS.
"""

_HINT = "docs/training.md says where to get their weights, under 'Metric weights'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric with its name and format."""

    name: str
    title: str
    higher_is_better: bool = False
    digits: int
    """Decimals that are significant."""
    smallest: tuple[int, int]
    """Minimum shorter and longer side of a picture."""
    judge: Judge
    rooted: bool = False
    """Whether the summary of several pictures is the root of their mean, not the mean."""

    def overall(self, values: Sequence[float]) -> float:
        """The summary of several pictures."""
        mean = fmean(values)
        return round(math.sqrt(mean) if self.rooted else mean, self.digits)


class Panel(NamedTuple):
    """The available metrics, and one line for each that is not."""

    metrics: tuple[Metric, ...]
    missing: tuple[str, ...]


def load_panel(folder: Path | None, device: torch.device) -> Panel:
    """Load all metrics whose weights are in `folder`; without one, those that need none.

    Raises:
        CheckpointInvalid: a file does not contain what its name says.
        OSError: a file cannot be read.
    """
    metrics = [
        Metric(
            name="psnr_y",
            title="PSNR-Y",
            higher_is_better=True,
            digits=3,
            smallest=(2 * BORDER + 1,) * 2,
            judge=partial(_each, psnr_y),
        ),
        Metric(
            name="ssim_y",
            title="SSIM-Y",
            higher_is_better=True,
            digits=4,
            smallest=(2 * BORDER + 11,) * 2,
            judge=partial(_each, ssim_y),
        ),
        Metric(
            name="rmse_y",
            title="RMSE-Y",
            digits=3,
            smallest=(2 * BORDER + 1,) * 2,
            judge=partial(_each, mse_y),
            rooted=True,
        ),
    ]
    if folder is None:
        names = f"{', '.join(_FILES)}".upper()
        return Panel(tuple(metrics), (f"{names} are left out: {_HINT}",))
    missing = []
    for name in _FILES:
        try:
            metrics.append(_perceptual(name, folder, device))
        except FileNotFoundError as absent:
            missing.append(f"{name.upper()} is left out: {absent}; {_HINT}")
    return Panel(metrics=tuple(metrics), missing=tuple(missing))


def _perceptual(name: str, folder: Path, device: torch.device) -> Metric:
    paths = [_found(names, folder) for names in _FILES[name]]
    digits, smallest = 4, (1, 1)
    judge: Judge
    try:
        if name == "niqe":
            pristine = load_pristine(*paths)
            digits, smallest = 3, SMALLEST_FOR_NIQE
            judge = partial(_each, lambda image, _: niqe(image, pristine))
        elif name == "lpips":
            smallest = (SMALLEST_FOR_LPIPS,) * 2
            judge = partial(_distances, LPIPS(*map(read_reference, paths)).to(device))
        else:
            judge = partial(_distances, DISTS(*map(read_reference, paths)).to(device))
    except CheckpointInvalid as invalid:
        raise CheckpointInvalid(f"{' or '.join(map(str, paths))}: {invalid}") from None
    return Metric(name=name, title=name.upper(), digits=digits, smallest=smallest, judge=judge)


def _found(names: tuple[str, ...], folder: Path) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}")


def _each(judge: Callable[[Tensor, Tensor], float], images: Tensor, true: Tensor) -> list[float]:
    return [judge(image, true) for image in images]


def _distances(network: nn.Module, images: Tensor, true: Tensor) -> list[float]:
    distances: Tensor = network(images.float() / 255, true[None].float() / 255)  # (N,)
    values: list[float] = distances.tolist()
    return values
