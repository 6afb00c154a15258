"""Losses of the generator and the discriminator.

Pure functions of tensors. `mean` is the mean over the batch; with several processes it is the mean
over all their batches, so that training equals that of one process.

Jolicoeur-Martineau, "The relativistic discriminator" (2018), arXiv:1807.00734; Goodfellow et al.
(2014), arXiv:1406.2661, with the non-saturating generator loss.

Shapes: N batch, H x W low-resolution pixels. Images are RGB in [0, 1]; logits have any shape.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.metrics.character import LUMA

Game = Literal["relativistic", "logistic"]


def pixel_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """L1 loss, in float32."""
    return F.l1_loss(sr.float(), hr.float())


def frequency_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """L1 loss of the orthonormal two-dimensional Fourier transforms.

    Jiang et al., "Focal Frequency Loss" (2021), arXiv:2012.12821, without its weighting.
    """
    spectrum = torch.fft.rfft2(sr.float() - hr.float(), norm="ortho")
    return torch.view_as_real(spectrum).abs().mean()


def colour_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """L1 loss of means over 32 x 32 pixels; incomplete blocks at borders are ignored."""
    return F.avg_pool2d(sr.float() - hr.float(), 32).abs().mean()


def texture_share(hr: Tensor) -> Tensor:
    """Share of fine texture around each pixel: (N, 3, 4H, 4W) -> (N, 1, 4H, 4W) in [0, 1).

    The local root mean square of luma minus its 9x9 mean, over 33x33 pixels; 8 grey levels are half
    of the range. It is 0 in flat areas.
    """
    luma = torch.einsum("nchw,c->nhw", hr.float(), hr.new_tensor(LUMA, dtype=torch.float32))
    luma = luma[:, None]
    detail = luma - _box(luma, 9)
    energy = _box(detail.square(), 33).sqrt()
    return energy / (energy + 8 / 255)


def mask_loss(mask: Tensor, hr: Tensor) -> Tensor:
    """L1 loss of the fusion mask to 0.1 in flat areas, rising with texture towards 0.8.

    Losses of the fused image alone leave the mask nearly flat: both branches agree where there is
    no texture, so nothing pulls it down there.
    """
    return F.l1_loss(mask.float(), 0.1 + 0.7 * texture_share(hr))


def _box(image: Tensor, side: int) -> Tensor:
    """Mean over a square around each pixel, without pixels beyond the border."""
    return F.avg_pool2d(image, side, 1, side // 2, count_include_pad=False)


def perceptual_loss(
    sr: Sequence[Tensor], hr: Sequence[Tensor], *, weights: Sequence[float]
) -> Tensor:
    """Weighted sum, over taps, of the L1 losses of features."""
    terms = [
        weight * F.l1_loss(ours.float(), theirs.float())
        for ours, theirs, weight in zip(sr, hr, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def discriminator_loss(
    *, real: Tensor, fake: Tensor, game: Game, mean: Callable[[Tensor], Tensor] = torch.mean
) -> Tensor:
    """Discriminator loss of real and fake logits.

    `relativistic` is the relativistic average loss: each logit is compared to the mean of the other
    side. `logistic` is the cross-entropy of each logit alone.
    """
    real, fake = real.float(), fake.float()
    if game == "relativistic":
        real, fake = real - mean(fake), fake - mean(real)
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def adversarial_loss(
    *, real: Tensor, fake: Tensor, game: Game, mean: Callable[[Tensor], Tensor] = torch.mean
) -> Tensor:
    """Generator loss: that of the discriminator with real and fake swapped."""
    if game == "logistic":
        return F.softplus(-fake.float()).mean()  # real logits do not depend on the generator
    return discriminator_loss(real=fake, fake=real, game=game, mean=mean)
