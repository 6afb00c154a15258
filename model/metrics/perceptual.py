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

Measure = Callable[[Tensor, Tensor], list[float]]
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
    higher_is_better: bool = False
    digits: int
    """Decimals that are significant."""
    smallest: tuple[int, int] = (1, 1)
    """Minimum shorter and longer side of a picture."""
    measure: Measure
    rooted: bool = False
    """True if the summary of several pictures is the root of their mean, not the mean."""

    @property
    def title(self) -> str:
        return self.name.upper().replace("_", "-")

    def overall(self, values: Sequence[float]) -> float:
        mean = fmean(values)
        return round(math.sqrt(mean) if self.rooted else mean, self.digits)


class LoadedMetrics(NamedTuple):
    """The available metrics, and one line for each that is not."""

    metrics: tuple[Metric, ...]
    missing: tuple[str, ...]


def load_metrics(folder: Path | None, device: torch.device) -> LoadedMetrics:
    """Load all metrics whose weights are in `folder`; without one, those that need none.

    Raises:
        CheckpointInvalid: a file does not contain what its name says.
        OSError: a file cannot be read.
    """
    pixel, window = (2 * BORDER + 1,) * 2, (2 * BORDER + 11,) * 2
    psnr, ssim, mse = (partial(_each, function) for function in (psnr_y, ssim_y, mse_y))
    metrics = [
        Metric(name="psnr_y", higher_is_better=True, digits=3, smallest=pixel, measure=psnr),
        Metric(name="ssim_y", higher_is_better=True, digits=4, smallest=window, measure=ssim),
        Metric(name="rmse_y", digits=3, smallest=pixel, measure=mse, rooted=True),
    ]
    if folder is None:
        names = ", ".join(_FILES).upper()
        return LoadedMetrics(tuple(metrics), (f"{names} are left out: {_HINT}",))
    missing = []
    for name in _FILES:
        try:
            metrics.append(_perceptual(name, folder, device))
        except FileNotFoundError as absent:
            missing.append(f"{name.upper()} is left out: {absent}; {_HINT}")
    return LoadedMetrics(metrics=tuple(metrics), missing=tuple(missing))


def _perceptual(name: str, folder: Path, device: torch.device) -> Metric:
    paths = [_found(names, folder) for names in _FILES[name]]
    try:
        if name == "niqe":
            pristine = load_pristine(*paths)
            measure = partial(_each, lambda image, _: niqe(image, pristine))
            return Metric(name=name, digits=3, smallest=SMALLEST_FOR_NIQE, measure=measure)
        network, smallest = (LPIPS, SMALLEST_FOR_LPIPS) if name == "lpips" else (DISTS, 1)
        distances = partial(_distances, network(*map(read_reference, paths)).to(device))
        return Metric(name=name, digits=4, smallest=(smallest,) * 2, measure=distances)
    except CheckpointInvalid as invalid:
        raise CheckpointInvalid(f"{' or '.join(map(str, paths))}: {invalid}") from None


def _found(names: tuple[str, ...], folder: Path) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}")


def _each(metric: Callable[[Tensor, Tensor], float], images: Tensor, true: Tensor) -> list[float]:
    return [metric(image, true) for image in images]


def _distances(network: nn.Module, images: Tensor, true: Tensor) -> list[float]:
    distances: Tensor = network(images.float() / 255, true[None].float() / 255)  # (N,)
    values: list[float] = distances.tolist()
    return values
