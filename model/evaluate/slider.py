"""The final outputs along the slider, and whether they change monotonically.

Outputs are clamped, blended between the two neighbours of a slider position, and rounded to bytes.

Shapes: H x W low-resolution pixels of RGB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from model.evaluate.pareto import NAMED_POSITIONS, name_of
from model.resize import to_bytes

POSITIONS = tuple(step / 10 for step in range(11))
"""Slider positions at which the distance from position 0 is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliderPath:
    """Distance of the result from that at position 0, along the slider."""

    distances: tuple[float, ...]
    """At each of `POSITIONS`, the mean over pictures."""
    grows: bool
    """Whether it grows from each position to the next, on every picture."""
    second_half: float | None
    """The share of the total distance between 0.5 and 1; none if the total is 0."""


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


def rmse(images: Tensor, reference: Tensor) -> list[float]:
    """Root mean square difference over all channels, in grey levels.

    (N, 3, 4H, 4W), (3, 4H, 4W), bytes -> N values.
    """
    like = reference.double()
    return [float((image.double() - like).square().mean().sqrt()) for image in images]


def slider_path(distances: Sequence[Sequence[float]]) -> SliderPath:
    """Summarise the distances at `POSITIONS` of at least one picture."""
    means = [fmean(position) for position in zip(*distances, strict=True)]
    middle, whole = means[POSITIONS.index(0.5)], means[-1]
    return SliderPath(
        distances=tuple(round(mean, 5) for mean in means),
        grows=all(before < after for one in distances for before, after in pairwise(one)),
        second_half=round((whole - middle) / whole, 4) if whole else None,
    )
