"""Scores of upscaling methods on a data set, and measures of their character.

Metrics are computed on the final output: bytes, at slider positions if the method has a slider.
There the outputs are clamped and blended between the two neighbours of a position. Only overshoot
is measured before clamping.

Shapes: H x W low-resolution pixels of RGB.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

import torch
from torch import Tensor

from model.evaluate.methods import MASK, Method
from model.evaluate.pareto import NAMED_POSITIONS, name_of
from model.evaluate.patterns import patterns
from model.metrics.character import (
    SMALLEST_FOR_MESH,
    lr_psnr,
    mean_shift,
    mesh,
    mesh_allowance,
    overshoot,
)
from model.metrics.perceptual import Metric
from model.resize import bicubic_up, to_bytes
from model.trainer.validation import Pair

POSITIONS = tuple(step / 10 for step in range(11))
"""Slider positions at which the distance from position 0 is measured."""
_PATTERN_SIDE = 64  # pixels
_PATTERN_SEED = 0
_DECIMALS = 3

Figures = Mapping[str, float]

_SUMMARY: Mapping[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "lr_psnr": ("lr_psnr", fmean),
    "mesh": ("mesh", median),
    "mesh_allowance": ("mesh_allowance", median),
    "mesh_ratio": ("mesh_ratio", median),
    "mesh_ratio_worst": ("mesh_ratio", max),
    "shift": ("shift", fmean),
    "shift_worst": ("shift", max),
}
"""Figure -> the measure per picture, and the summary over pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliderPath:
    """Distance of the result from that at position 0, along the slider."""

    distances: tuple[float, ...]
    """At each of `POSITIONS`, the mean over pictures."""
    grows: bool
    """True if the distance grows from each position to the next, on every picture."""
    second_half: float | None
    """The share of the total distance between 0.5 and 1; none if the total is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodResults:
    """All results of one method on one data set."""

    scores: Mapping[str, Figures]
    """Image name -> metric -> value."""
    places: Mapping[str, Figures]
    """Image name -> figure -> value: mean `lr_psnr` in dB; median `mesh` in grey levels; median and
    maximum of the mesh relative to the allowance, `mesh_ratio` and `mesh_ratio_worst`; mean and
    maximum shift from the enlarged input in grey levels, `shift` and `shift_worst`.
    """
    original: Figures
    """Medians of `mesh` and `mesh_allowance` of the true pictures, in grey levels."""
    slider: Mapping[str, SliderPath]
    """`rmse`, in grey levels, and `lpips`; empty for a method without a slider."""
    mask: Mapping[str, int]
    """`p5` and `p95` of the mask over all pixels of all pictures, 0 to 255; empty: no mask."""


def evaluate(
    method: Method,
    pairs: Iterable[Pair],
    metrics: Sequence[Metric],
    *,
    trade_offs: Sequence[float] = (),
) -> MethodResults:
    """Evaluate a method on pairs, at the slider positions `trade_offs` if there are any.

    A figure is left out if it is not finite for some picture: one that is equal to the true
    picture, flat, or too small for the mesh.

    Raises:
        ValueError: a picture is too small for a metric, or an output is not finite.
    """
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    places: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    original: dict[str, list[float]] = defaultdict(list)
    slider: dict[str, list[list[float]]] = defaultdict(list)
    masks: list[Tensor] = []  # pixels of each picture's mask for each of the 256 levels
    for pair in pairs:
        with _float32():
            outputs = method(pair.lr)
            images = shown(outputs, trade_offs)
            stack = torch.stack(tuple(images.values()))  # (N, 3, 4H, 4W)
            for metric in metrics:
                for name, value in zip(images, metric.measure(stack, pair.hr), strict=True):
                    scores[name][metric.name].append(value)
            large = min(pair.hr.shape[1:]) >= SMALLEST_FOR_MESH
            true_mesh = mesh(pair.hr) if large else math.nan
            allowance = mesh_allowance(true_mesh) if large else math.nan
            original["mesh"].append(true_mesh)
            original["mesh_allowance"].append(allowance)
            enlarged = bicubic_up(pair.lr)
            for name, image in images.items():
                strength = mesh(image) if large else math.nan
                places[name]["lr_psnr"].append(lr_psnr(image, pair.lr))
                places[name]["mesh"].append(strength)
                places[name]["mesh_ratio"].append(strength / allowance)
                places[name]["shift"].append(mean_shift(image, enlarged))
            if trade_offs:
                stack = torch.stack(tuple(shown(outputs, POSITIONS).values()))  # (11, 3, 4H, 4W)
                first = stack[0].double()
                slider["rmse"].append(
                    [float((image.double() - first).square().mean().sqrt()) for image in stack]
                )
                for metric in metrics:
                    if metric.name == "lpips":
                        slider[metric.name].append(metric.measure(stack, stack[0]))
            if MASK in outputs:
                levels = outputs[MASK].mul(255).round().long().flatten()
                masks.append(levels.bincount(minlength=256))
    return MethodResults(
        scores={
            name: {
                metric.name: metric.overall(scores[name][metric.name])
                for metric in metrics
                if all(map(math.isfinite, scores[name][metric.name]))
            }
            for name in places  # even if the pictures are too small for every metric
        },
        places={name: _summary(found) for name, found in places.items()},
        original=_summary(original),
        slider={distance: slider_path(found) for distance, found in slider.items()},
        mask=_percentiles(sum(masks[1:], masks[0])) if masks else {},
    )


def shown(outputs: Mapping[str, Tensor], trade_offs: Sequence[float]) -> dict[str, Tensor]:
    """Bytes of (3, 4H, 4W) at these positions, 0 to 1, by the names of `name_of`.

    `outputs` are `psnr`, `fused` and `gan` in [0, 1], not clamped. Without positions, all of them.
    """
    if not trade_offs:
        return {name: to_bytes(image) for name, image in outputs.items()}
    clamped = {position: outputs[name].clamp(0, 1) for name, position in NAMED_POSITIONS.items()}
    images = {}
    for position in trade_offs:  # blended from the two outputs next to it
        left = 0.0 if position < 0.5 else 0.5
        share = 2 * (position - left)
        blended = torch.lerp(clamped[left], clamped[left + 0.5], share)
        images[name_of(position)] = to_bytes(blended)
    return images


def slider_path(distances: Sequence[Sequence[float]]) -> SliderPath:
    """Summarise the distances at `POSITIONS` of at least one picture."""
    means = [fmean(position) for position in zip(*distances, strict=True)]
    middle, whole = means[POSITIONS.index(0.5)], means[-1]
    return SliderPath(
        distances=tuple(round(mean, 5) for mean in means),
        grows=all(before < after for one in distances for before, after in pairwise(one)),
        second_half=round((whole - middle) / whole, 4) if whole else None,
    )


def overshoots(method: Method, device: torch.device) -> dict[str, dict[str, float]]:
    """Overshoot of each output on test patterns: output -> pattern -> levels beyond the input's.

    Raises:
        ValueError: an output is not finite.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for pattern, picture in patterns(height=_PATTERN_SIDE, width=_PATTERN_SIDE, seed=_PATTERN_SEED):
        lr = picture.to(device)
        with _float32():
            for output, image in method(lr).items():
                if output != MASK:
                    found[output][pattern] = round(overshoot(image, lr), 2)
    return dict(found)


def _summary(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {
        figure: round(overall(found[measured]), _DECIMALS)
        for figure, (measured, overall) in _SUMMARY.items()
        if measured in found and all(map(math.isfinite, found[measured]))
    }


def _percentiles(counts: Tensor) -> dict[str, int]:
    """The 5th and 95th percentile of a histogram (256,)."""
    reached = counts.cumsum(0)  # (256,)
    total = int(reached[-1])
    return {f"p{share}": int((100 * reached < share * total).sum()) for share in (5, 95)}


@contextmanager
def _float32() -> Iterator[None]:
    # Disables TF32, which has only three decimal digits.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
