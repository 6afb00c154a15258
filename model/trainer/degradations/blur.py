"""Blur kernels of Real-ESRGAN's recipe, one for each image of a batch, and filtering with them.

Isotropic and anisotropic Gaussians, generalised Gaussians, plateau-shaped kernels, and the sinc
filter (circular low-pass); arXiv:2107.10833, section 3.1.

Shapes: N batch, S x S pixels, K = 21 the side of a kernel.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.trainer.degradations.random import Draws

SIDE = 21
Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blur:
    """Probabilities and ranges of blur kernels."""

    probability: float
    sinc: float
    """Probability of a sinc filter instead of one of the kinds below."""
    sigma: Range
    generalised: Range
    """Shape parameter beta of generalised Gaussians."""
    plateau: Range
    """Shape parameter beta of plateau kernels."""
    kinds: tuple[float, float, float, float, float, float]
    """Shares of: isotropic, anisotropic; the same for generalised; the same for plateau."""


def draw_kernels(blur: Blur, draws: Draws) -> Tensor:
    """One kernel for each image: (N, K, K)."""
    kind = draws.choice(blur.kinds)
    radius = _draw_radius(draws)
    wide, narrow = draws.uniform(*blur.sigma), draws.uniform(*blur.sigma)
    narrow = torch.where(kind % 2 == 0, wide, narrow)  # even kinds are isotropic
    angle = draws.uniform(-math.pi, math.pi)
    generalised, plateau = _draw_beta(blur.generalised, draws), _draw_beta(blur.plateau, draws)

    y, x = _offsets(angle.device)
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    along, across = cosine * x + sine * y, cosine * y - sine * x  # (N, K, K)
    distance = (along / wide.view(-1, 1, 1)) ** 2 + (across / narrow.view(-1, 1, 1)) ** 2
    beta = torch.where(kind < 2, 1, torch.where(kind < 4, generalised, plateau)).view(-1, 1, 1)
    power = distance**beta
    bell = torch.where((kind < 4).view(-1, 1, 1), torch.exp(-0.5 * power), 1 / (1 + power))

    sinc = draws.bernoulli(blur.sinc).view(-1, 1, 1)
    kernels = _normalised(torch.where(sinc, _sinc(radius, draws), bell), radius)
    return _identity_unless(kernels, draws.bernoulli(blur.probability))


def draw_sinc(probability: float, draws: Draws) -> Tensor:
    """A sinc filter for some images, the identity for the others: (N, K, K)."""
    radius = _draw_radius(draws)
    kernels = _normalised(_sinc(radius, draws), radius)
    return _identity_unless(kernels, draws.bernoulli(probability))


def gaussian_kernels(sigma: Tensor) -> Tensor:
    """Isotropic Gaussians: (N,) standard deviations in pixels -> (N, K, K).

    Near 0 the kernel is the identity.
    """
    y, x = _offsets(sigma.device)
    distance = y**2 + x**2  # (K, K)
    bell = torch.exp(-0.5 * distance / sigma.view(-1, 1, 1) ** 2)
    return bell / bell.sum(dim=(1, 2), keepdim=True)


def filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter each image with its own kernel, replicated border: (N, 3, H, W), (N, K, K).

    Uses the Fourier transform: convolutions are slow with one 21 x 21 kernel per image.
    """
    reach = SIDE // 2
    height, width = images.shape[-2:]
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    sides = [
        -(-side // 32) * 32 for side in padded.shape[-2:]
    ]  # transforms are fast for round sizes
    spectrum = torch.fft.rfft2(padded, s=sides)
    transfer = torch.fft.rfft2(kernels.flip(1, 2), s=sides).unsqueeze(1)
    both: Tensor = torch.fft.irfft2(spectrum * transfer, s=sides)
    return both[..., 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width].contiguous()


def _draw_radius(draws: Draws) -> Tensor:
    """Random kernel radii for sides of 7 to 21 pixels: (N,)."""
    return draws.choice((1,) * 8) + 3


def _draw_beta(limits: Range, draws: Draws) -> Tensor:
    """Draw shape parameters: below 1 with probability 1/2, else above; uniform on either side."""
    low, high = limits
    return torch.where(draws.bernoulli(0.5), draws.uniform(low, 1), draws.uniform(1, high))


def _offsets(device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column from the centre: (K, 1) and (1, K)."""
    offsets = torch.arange(SIDE, device=device) - SIDE // 2
    return offsets.view(-1, 1), offsets.view(1, -1)


def _sinc(radius: Tensor, draws: Draws) -> Tensor:
    """The circular low-pass filter of a random cut-off, with a higher minimum for small kernels."""
    low = torch.where(radius < 6, math.pi / 3, math.pi / 5)
    cutoff = (low + (math.pi - low) * draws.uniform(0, 1)).view(-1, 1, 1)
    y, x = _offsets(radius.device)
    distance = torch.hypot(y.float(), x.float()).clamp(min=1e-6)
    bessel: Tensor = torch.special.bessel_j1(cutoff * distance)
    return cutoff * bessel / (2 * math.pi * distance)


def _normalised(kernels: Tensor, radius: Tensor) -> Tensor:
    """Kernels within `radius` that add up to 1."""
    y, x = _offsets(radius.device)
    kernels = kernels * (torch.maximum(y.abs(), x.abs()) <= radius.view(-1, 1, 1))
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _identity_unless(kernels: Tensor, wanted: Tensor) -> Tensor:
    nothing = torch.zeros_like(kernels)
    nothing[:, SIDE // 2, SIDE // 2] = 1
    return torch.where(wanted.view(-1, 1, 1), kernels, nothing)
