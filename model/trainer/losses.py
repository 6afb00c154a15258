"""Losses: what the generator and the discriminator are asked for.

Pure functions of tensors. `mean` is the mean over the batch; with several processes it is given as
the mean over all their batches, so that they learn what one process would.

Jolicoeur-Martineau, "The relativistic discriminator" (2018), arXiv:1807.00734; Goodfellow et al.
(2014), arXiv:1406.2661, with the generator's loss that does not saturate.

Shapes: N batch, H x W low-resolution pixels. Images are RGB in [0, 1]; logits have any shape.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.resize import bicubic_down, bicubic_up

Game = Literal["relativistic", "logistic"]


def pixel_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """The mean absolute difference, in float32."""
    return F.l1_loss(sr.float(), hr.float())


def frequency_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """The mean absolute difference of the orthonormal two-dimensional Fourier transforms.

    Jiang et al., "Focal Frequency Loss" (2021), arXiv:2012.12821, without its weighting.
    """
    spectrum = torch.fft.rfft2(sr.float() - hr.float(), norm="ortho")
    return torch.view_as_real(spectrum).abs().mean()


def colour_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """The mean absolute difference of means over 32 x 32 pixels; what is left at borders is not
    looked at.
    """
    return F.avg_pool2d(sr.float() - hr.float(), 32).abs().mean()


def perceptual_loss(
    sr: Sequence[Tensor], hr: Sequence[Tensor], *, weights: Sequence[float]
) -> Tensor:
    """The weighted sum, over taps, of the mean absolute differences of features."""
    terms = [
        weight * F.l1_loss(ours.float(), theirs.float())
        for ours, theirs, weight in zip(sr, hr, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def discriminator_loss(
    *, real: Tensor, fake: Tensor, game: Game, mean: Callable[[Tensor], Tensor] = torch.mean
) -> Tensor:
    """How badly real and fake logits are told apart.

    In the relativistic average game each logit is judged against the other side's mean; in the
    logistic game each is judged by itself.
    """
    real, fake = real.float(), fake.float()
    if game == "relativistic":
        real, fake = real - mean(fake), fake - mean(real)
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def adversarial_loss(
    *, real: Tensor, fake: Tensor, game: Game, mean: Callable[[Tensor], Tensor] = torch.mean
) -> Tensor:
    """The generator plays the same game with the sides swapped."""
    if game == "logistic":
        return F.softplus(-fake.float()).mean()  # real logits do not depend on the generator
    return discriminator_loss(real=fake, fake=real, game=game, mean=mean)


def back_projected(sr: Tensor, lr: Tensor) -> Tensor:
    """Add what `sr` lacks to shrink to `lr`: (N, 3, 4H, 4W), (N, 3, H, W) -> (N, 3, 4H, 4W)."""
    sr = sr.float()
    return sr + bicubic_up(lr.float() - bicubic_down(sr))
