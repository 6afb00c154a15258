"""DISTS: how different two pictures look when texture may differ in detail; lower is better.

Ding, Ma, Wang and Simoncelli, "Image Quality Assessment: Unifying Structure and Texture
Similarity", IEEE TPAMI 44 (2022), arXiv:2004.07728. Means (texture) and covariances (structure) of
the features of VGG16, whose pooling is replaced by a blur of squares so that a shift changes
little, are compared as SSIM does it. Pictures are compared at their own size, as the papers on
super-resolution do; the authors' example first makes the shorter side 256 pixels long.

Shapes: N images, H x W pixels, RGB in [0, 1]; C features.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoint import CheckpointInvalid
from model.metrics.vgg import VGG

_STAGES = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
_CONVOLUTIONS = 13
_C = 1e-6
_EPSILON = 1e-12


class DISTS(nn.Module):
    """The DISTS distance between pictures and a reference; frozen."""

    alpha: Tensor
    beta: Tensor
    blur: Tensor

    def __init__(self, network: Mapping[str, Tensor], shares: Mapping[str, Tensor]) -> None:
        """`network`: torchvision's VGG16; `shares`: `alpha` and `beta`, the weights of the
        features.

        Raises:
            CheckpointInvalid: a tensor is missing, or has the wrong shape.
        """
        super().__init__()
        self.network = VGG(network, _STAGES)
        if len(self.network.names) != _CONVOLUTIONS:
            raise CheckpointInvalid("these are VGG19's convolutions; DISTS is made for VGG16's")
        convs = dict(zip(self.network.names, self.network.convs, strict=True))
        self.channels = [3, *(len(convs[name].get_parameter("weight")) for name in _STAGES)]
        for name in ("alpha", "beta"):
            if name not in shares or shares[name].numel() != sum(self.channels):
                raise CheckpointInvalid(f"{name} does not have {sum(self.channels)} values")
        total = shares["alpha"].sum() + shares["beta"].sum()
        self.register_buffer("alpha", shares["alpha"].float().view(1, -1) / total)
        self.register_buffer("beta", shares["beta"].float().view(1, -1) / total)
        hann = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("blur", (hann[:, None] * hann).view(1, 1, 3, 3))
        self.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor, reference: Tensor) -> Tensor:
        """(N, 3, H, W), (1, 3, H, W) -> (N,)."""
        true = self._features(reference)
        # One by one, as a batch of large pictures may not fit.
        return torch.cat([self._distance(self._features(image[None]), true) for image in images])

    def between(self, images: Tensor, references: Tensor) -> Tensor:
        """Pairwise, as a loss: (N, 3, H, W), (N, 3, H, W) -> (N,)."""
        return self._distance(self._features(images), self._features(references))

    def _features(self, images: Tensor) -> list[Tensor]:
        """The picture itself and five stages of VGG16, after their activations."""
        return [images, *map(F.relu, self.network(images, self._pooled))]

    def _pooled(self, x: Tensor) -> Tensor:
        kernel = self.blur.expand(x.shape[1], 1, 3, 3)
        squares = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1])
        return (squares + _EPSILON).sqrt()

    def _distance(self, one: list[Tensor], other: list[Tensor]) -> Tensor:
        textures, structures = [], []
        for x, y in zip(one, other, strict=True):
            mean_x, mean_y = x.mean(dim=(2, 3)), y.mean(dim=(2, 3))  # (N, C)
            variance_x = (x - mean_x[..., None, None]).square().mean(dim=(2, 3))
            variance_y = (y - mean_y[..., None, None]).square().mean(dim=(2, 3))
            covariance = (x * y).mean(dim=(2, 3)) - mean_x * mean_y
            textures.append((2 * mean_x * mean_y + _C) / (mean_x**2 + mean_y**2 + _C))
            structures.append((2 * covariance + _C) / (variance_x + variance_y + _C))
        alike = self.alpha * torch.cat(textures, dim=1) + self.beta * torch.cat(structures, dim=1)
        return 1 - alike.sum(dim=1)
