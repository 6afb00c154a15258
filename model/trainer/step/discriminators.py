"""Discriminators of photographs and generated images.

`VGGDiscriminator` is that of the reference, with one logit per image; `UNetDiscriminator` has one
logit per pixel, which gives the generator local feedback, and spectral normalisation for stability.

Wang et al., "Real-ESRGAN" (2021), arXiv:2107.10833; Miyato et al. (2018), arXiv:1802.05957.

Shapes: N batch, S x S pixels of images in [0, 1], D features.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import NEGATIVE_SLOPE


class VGGDiscriminator(nn.Module):
    """Convolutions that halve the side five times, then two dense layers."""

    def __init__(self, *, side: int, features: int = 64) -> None:
        """Build the network for images of `side` x `side` pixels, as the last layers are dense.

        Raises:
            ValueError: `side` is not a multiple of 32.
        """
        super().__init__()
        if side <= 0 or side % 32:
            raise ValueError(
                f"the VGG discriminator needs sides that are a multiple of 32; got {side}"
            )
        widths = [features * factor for factor in (1, 1, 2, 2, 4, 4, 8, 8, 8, 8)]
        layers: list[nn.Module] = [nn.Conv2d(3, features, kernel_size=3, padding=1), _activation()]
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            size, stride = (4, 2) if index % 2 == 0 else (3, 1)
            conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=1)
            layers += [conv, nn.BatchNorm2d(outputs), _activation()]
        self.features = nn.Sequential(*layers)
        self.judge = nn.Sequential(
            nn.Linear(widths[-1] * (side // 32) ** 2, 100), _activation(), nn.Linear(100, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, 1)."""
        seen: Tensor = self.features(images)  # (N, 8D, S / 32, S / 32)
        logits: Tensor = self.judge(seen.flatten(1))
        return logits


class UNetDiscriminator(nn.Module):
    """U-Net: three levels down and up, with skip connections."""

    def __init__(self, *, features: int = 64) -> None:
        super().__init__()
        widths = [features, 2 * features, 4 * features, 8 * features]
        self.first = nn.Conv2d(3, features, kernel_size=3, padding=1)
        self.down = nn.ModuleList(
            SpectralConv(inputs, outputs, kernel_size=4, stride=2)
            for inputs, outputs in pairwise(widths)
        )
        self.up = nn.ModuleList(
            SpectralConv(inputs, outputs, kernel_size=3)
            for inputs, outputs in pairwise(reversed(widths))
        )
        self.refine = nn.ModuleList(
            SpectralConv(features, features, kernel_size=3) for _ in range(2)
        )
        self.judge = nn.Conv2d(features, 1, kernel_size=3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, 1, S, S); S is a multiple of 8."""
        x = F.leaky_relu(self.first(images), NEGATIVE_SLOPE)  # (N, D, S, S)
        passed = []
        for conv in self.down:
            passed.append(x)
            x = F.leaky_relu(conv(x), NEGATIVE_SLOPE)  # up to (N, 8D, S / 8, S / 8)
        for conv in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(conv(x), NEGATIVE_SLOPE) + passed.pop()  # down to (N, D, S, S)
        for conv in self.refine:
            x = F.leaky_relu(conv(x), NEGATIVE_SLOPE)
        logits: Tensor = self.judge(x)
        return logits


class SpectralConv(nn.Conv2d):
    """A convolution without bias and with spectral normalisation.

    The largest singular value is estimated in float32 under autocast too, by one power iteration
    per training step; PyTorch's own parametrisation would iterate in bfloat16 there.
    """

    left: Tensor
    right: Tensor

    def __init__(self, inputs: int, outputs: int, *, kernel_size: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel_size, stride=stride, padding=1, bias=False)
        flat = self.weight.detach().flatten(1)  # (outputs, inputs x kernel)
        self.register_buffer("left", F.normalize(torch.randn(flat.shape[0]), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(flat.shape[1]), dim=0))
        for _ in range(15):
            self._iterate(flat)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, S, S) -> (N, outputs, S / stride, S / stride)."""
        with torch.autocast(x.device.type, enabled=False):
            flat = self.weight.flatten(1)
            if self.training:
                self._iterate(flat.detach())
            # Copies: the next forward pass iterates in place before this one's backward pass.
            norm = torch.dot(self.left.clone(), flat.mv(self.right.clone()))
            weight = self.weight / norm
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)

    @torch.no_grad()
    def _iterate(self, flat: Tensor) -> None:
        self.left.copy_(F.normalize(flat.mv(self.right), dim=0))
        self.right.copy_(F.normalize(flat.T.mv(self.left), dim=0))


def _activation() -> nn.Module:
    return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
