"""Degradations: how photographs become the small pictures of training.

Each picture of a batch is degraded in one of three ways, drawn by their shares: the protocol's
`bicubic` alone; the `light` recipe: slight blur, bicubic, slight noise and one JPEG, as in most
uploads; or the `full` recipe of Real-ESRGAN.

The full recipe is of second order (Wang et al. 2021, arXiv:2107.10833, section 3 and its published
settings): blur, resize, noise and JPEG, twice, the second time with the resize to the final size
and a sinc filter before or after the JPEG. It differs in two points, so that everything runs in
batch on any device: every image has its own scale, because resizing is two matrix products on a
canvas for the largest scale; and Poisson noise always counts 256 levels.

Shapes: N batch, S x S pixels. Images are in levels, 0 to 255.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from model.gdsr import SCALE
from model.resize import bicubic_down, cubic
from model.trainer.degradations.blur import (
    Blur,
    Range,
    draw_kernels,
    draw_sinc,
    filtered,
    gaussian_kernels,
)
from model.trainer.degradations.jpeg import jpeg_round_trip
from model.trainer.degradations.random import Draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Probabilities of enlarging, reducing and keeping the size, and their ranges."""

    up: float
    down: float
    keep: float
    scale: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Gaussian or else Poisson noise, sometimes the same in all channels."""

    gaussian: float
    """Probability; otherwise the noise is Poisson's."""
    gaussian_levels: Range
    """Standard deviation, of 255."""
    poisson_scale: Range
    grey: float
    """Probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of blur, resize, noise and JPEG."""

    blur: Blur
    resize: Resize
    noise: Noise
    jpeg_quality: Range


_FIRST = Round(
    blur=Blur(
        probability=1.0,
        sinc=0.1,
        sigma=(0.2, 3.0),
        generalised=(0.5, 4.0),
        plateau=(1.0, 2.0),
        kinds=(0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
    ),
    resize=Resize(up=0.2, down=0.7, keep=0.1, scale=(0.15, 1.5)),
    noise=Noise(gaussian=0.5, gaussian_levels=(1, 30), poisson_scale=(0.05, 3.0), grey=0.4),
    jpeg_quality=(30, 95),
)
_SECOND = replace(
    _FIRST,
    blur=replace(_FIRST.blur, probability=0.8, sigma=(0.2, 1.5)),
    resize=Resize(up=0.3, down=0.4, keep=0.3, scale=(0.3, 1.2)),
    noise=replace(_FIRST.noise, gaussian_levels=(1, 25), poisson_scale=(0.05, 2.5)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """Two rounds, then the final size; the defaults are Real-ESRGAN's published ranges."""

    first: Round = _FIRST
    second: Round = _SECOND
    final_sinc: float = 0.8
    """Probability of the final sinc filter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """Slight blur, bicubic, slight noise, and a JPEG of good quality."""

    blur: float = 0.5
    """Probability of an isotropic Gaussian blur."""
    sigma: Range = (0.3, 2.0)
    """Standard deviation of the blur, in high-resolution pixels."""
    noise: float = 0.5
    """Probability of Gaussian noise."""
    noise_levels: Range = (0.5, 6.0)
    """Standard deviation, of 255."""
    jpeg: float = 0.85
    """Probability."""
    jpeg_quality: Range = (50, 97)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Relative frequency of each way."""

    bicubic: float = 0.0
    light: float = 0.0
    full: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """The mix of degradations for training."""

    shares: Shares
    light: Light = Light()
    full: Full = Full()


LIGHT_ALONE = Degradation(shares=Shares(light=1.0))
"""The light recipe for every picture; supports any size that is a multiple of 4."""


def shrink(hr: Tensor, degradation: Degradation | None, generator: torch.Generator) -> Tensor:
    """Make the low-resolution images: (N, 3, 4S, 4S) bytes -> (N, 3, S, S) bytes.

    Without a `degradation` the method is the protocol's bicubic, which does not use `generator`.
    """
    small = bicubic_down(hr)
    if degradation is None:
        return small
    shares = degradation.shares
    way = Draws(hr.shape[0], generator).choice((shares.bicubic, shares.light, shares.full))
    with torch.autocast(hr.device.type, enabled=False):
        if shares.light:
            small = _degraded(hr, small, way == 1, partial(_light, degradation.light), generator)
        if shares.full:
            small = _degraded(hr, small, way == 2, partial(_full, degradation.full), generator)
    return small


def _degraded(
    hr: Tensor,
    small: Tensor,
    chosen: Tensor,
    recipe: Callable[[Tensor, Draws], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """`small` with the `chosen` images, (N,), made from `hr` by the recipe."""
    if hr.device.type != "cpu":
        # All images are computed: selecting some would make a GPU wait.
        made = recipe(hr.float(), Draws(hr.shape[0], generator))
        return torch.where(chosen.view(-1, 1, 1, 1), made, small)
    indices = chosen.nonzero().flatten()
    if len(indices):
        small = small.index_copy(
            0, indices, recipe(hr[indices].float(), Draws(len(indices), generator))
        )
    return small


def _light(light: Light, images: Tensor, draws: Draws) -> Tensor:
    """(N, 3, 4S, 4S) levels -> (N, 3, S, S) bytes."""
    sigma = draws.uniform(*light.sigma)
    kernels = gaussian_kernels(torch.where(draws.bernoulli(light.blur), sigma, 1e-3))
    small = bicubic_down(filtered(images, kernels)).clamp(0, 255)
    levels = draws.uniform(*light.noise_levels) * draws.bernoulli(light.noise)
    small = small + levels.view(-1, 1, 1, 1) * draws.normal(*small.shape[1:])
    small = small.round().clamp(0, 255)
    compressed = jpeg_round_trip(small, draws.uniform(*light.jpeg_quality))
    chosen = draws.bernoulli(light.jpeg).view(-1, 1, 1, 1)
    return torch.where(chosen, compressed, small).to(torch.uint8)


def _full(full: Full, images: Tensor, draws: Draws) -> Tensor:
    """(N, 3, 4S, 4S) levels -> (N, 3, S, S) bytes."""
    original = images.shape[-1]
    final = original // SCALE
    sizes = torch.full((images.shape[0],), original, device=images.device)  # (N,)

    images = filtered(images, draw_kernels(full.first.blur, draws))
    images, sizes = _resize_randomly(images, sizes, original, full.first.resize, draws)
    images = _noisy(images, full.first.noise, draws)
    images = jpeg_round_trip(images, draws.uniform(*full.first.jpeg_quality))

    images = filtered(images, draw_kernels(full.second.blur, draws))
    images, sizes = _resize_randomly(images, sizes, final, full.second.resize, draws)
    images = _noisy(images, full.second.noise, draws)
    # Half of the images end with the JPEG, the others with the resize and the sinc filter.
    jpeg_last = draws.bernoulli(0.5).view(-1, 1, 1, 1)
    quality = draws.uniform(*full.second.jpeg_quality)
    images = torch.where(jpeg_last, images, jpeg_round_trip(images, quality))
    images = _resized(images, sizes, torch.full_like(sizes, final), side=final, draws=draws)
    images = filtered(images, draw_sinc(full.final_sinc, draws))
    images = torch.where(jpeg_last, jpeg_round_trip(images, quality), images)
    return images.round().clamp(0, 255).to(torch.uint8)


def _resize_randomly(
    images: Tensor, sizes: Tensor, reference: int, resize: Resize, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Resize each image to its own random scale, relative to `reference` pixels a side."""
    smallest, largest = resize.scale
    kind = draws.choice((resize.up, resize.down, resize.keep))
    up, down = draws.uniform(1, max(1, largest)), draws.uniform(min(1, smallest), 1)
    scale = torch.where(kind == 0, up, torch.where(kind == 1, down, 1))
    resized = (scale * reference).floor().clamp(min=1).long()  # (N,)
    side = -(-int(max(1, largest) * reference) // 16) * 16  # whole JPEG blocks
    return _resized(images, sizes, resized, side=side, draws=draws), resized


def _resized(images: Tensor, sizes: Tensor, resized: Tensor, *, side: int, draws: Draws) -> Tensor:
    """Resize from `sizes` to `resized` pixels a side, (N,) each: (N, 3, S, S) -> (N, 3, side,
    side).

    By area, bilinear or bicubic (a = -0.75, no antialiasing, as in the recipe). Pixels beyond the
    new size replicate its border, for filters and JPEG blocks.
    """
    kind = draws.choice((1, 1, 1)).view(-1, 1, 1)
    step = (sizes / resized).view(-1, 1, 1)
    row = torch.arange(side, device=images.device).view(1, -1, 1)
    row = torch.minimum(row, resized.view(-1, 1, 1) - 1)  # (N, side, 1)
    pixel = torch.arange(images.shape[-1], device=images.device).view(1, 1, -1)
    apart = ((row + 0.5) * step - 0.5 - pixel).abs()  # (N, side, S)
    covered = torch.minimum((row + 1) * step, pixel + 1) - torch.maximum(row * step, pixel)
    weights = torch.where(kind == 0, covered.clamp(min=0), (1 - apart).clamp(min=0))
    weights = torch.where(kind == 2, cubic(apart, -0.75), weights)
    weights = weights * (pixel < sizes.view(-1, 1, 1))
    weights = (weights / weights.sum(-1, keepdim=True)).unsqueeze(1)  # (N, 1, side, S)
    return (weights @ images @ weights.mT).clamp(0, 255)


def _noisy(images: Tensor, noise: Noise, draws: Draws) -> Tensor:
    """Gaussian or Poisson noise, per channel or the same in all: (N, 3, S, S)."""
    side = images.shape[-1]
    grey = draws.bernoulli(noise.grey).view(-1, 1, 1, 1)
    levels = draws.uniform(*noise.gaussian_levels).view(-1, 1, 1, 1)
    field = draws.normal(3, side, side)
    gaussian = levels * torch.where(grey, field[:, :1], field)

    scale = draws.uniform(*noise.poisson_scale).view(-1, 1, 1, 1)
    red, green, blue = torch.split(images, 1, dim=1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    counts = torch.where(grey, luma, images)  # photons: as many as levels, 255
    drawn = draws.poisson(counts)
    poisson = scale * (torch.where(grey, drawn[:, :1], drawn) - counts)

    wanted = draws.bernoulli(noise.gaussian).view(-1, 1, 1, 1)
    return (images + torch.where(wanted, gaussian, poisson)).clamp(0, 255)
