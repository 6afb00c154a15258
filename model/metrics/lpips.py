"""LPIPS 0.1 on AlexNet: perceptual distance of two pictures; 0 if equal, lower is better.

Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018, arXiv:1801.03924. Features of five layers are scaled to unit length,
and their squared differences are weighted by parameters learned from human judgements.

Shapes: N images, H x W pixels, RGB in [0, 1]; C features.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoint import CheckpointInvalid
from model.metrics.vgg import taken

SMALLEST = 31
"""Minimum shorter side of a picture, so that the last pooling has an output."""

_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


class _Layer(NamedTuple):
    """A convolution of AlexNet as torchvision numbers and shapes it."""

    number: int
    side: int
    stride: int
    pooled: bool
    """True if pooling precedes it."""


_LAYERS = (
    _Layer(number=0, side=11, stride=4, pooled=False),
    _Layer(number=3, side=5, stride=1, pooled=True),
    _Layer(number=6, side=3, stride=1, pooled=True),
    _Layer(number=8, side=3, stride=1, pooled=False),
    _Layer(number=10, side=3, stride=1, pooled=False),
)


class LPIPS(nn.Module):
    """The LPIPS distance between pictures and a reference; frozen."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """`network`: torchvision's AlexNet; `heads`: the weights of its features in LPIPS.

        Raises:
            CheckpointInvalid: a tensor is missing, or has the wrong shape.
        """
        super().__init__()
        self.convs = nn.ModuleList()
        inputs = 3
        for index, layer in enumerate(_LAYERS):
            weight = taken(network, f"features.{layer.number}.weight")
            bias = taken(network, f"features.{layer.number}.bias")
            head = taken(heads, f"lin{index}.model.1.weight")
            outputs = len(bias)
            if weight.shape != (outputs, inputs, layer.side, layer.side):
                raise CheckpointInvalid(f"features.{layer.number} is not AlexNet's")
            if head.numel() != outputs:
                raise CheckpointInvalid(f"lin{index} weights {head.numel()} of {outputs} features")
            padding = 2 if layer.side > 3 else 1
            conv = nn.Conv2d(inputs, outputs, layer.side, stride=layer.stride, padding=padding)
            conv.load_state_dict({"weight": weight, "bias": bias})
            self.convs.append(conv)
            self.register_buffer(f"head{index}", head.view(1, outputs, 1, 1))
            inputs = outputs
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))
        self.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor, reference: Tensor) -> Tensor:
        """(N, 3, H, W), (1, 3, H, W) -> (N,)."""
        true = self._features(reference)
        # One by one, as a batch of large pictures may not fit.
        return torch.cat([self._distance(self._features(image[None]), true) for image in images])

    def _features(self, images: Tensor) -> list[Tensor]:
        """Unit vectors at each position of each layer: (N, 3, H, W) -> (N, C, ...) five times."""
        x = (2 * images - 1 - self.mean) / self.deviation
        found = []
        for layer, conv in zip(_LAYERS, self.convs, strict=True):
            if layer.pooled:
                x = F.max_pool2d(x, kernel_size=3, stride=2)
            x = F.relu(conv(x))
            found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON))
        return found

    def _distance(self, one: list[Tensor], other: list[Tensor]) -> Tensor:
        layers = [
            (self.get_buffer(f"head{index}") * (a - b).square()).sum(dim=1).mean(dim=(1, 2))
            for index, (a, b) in enumerate(zip(one, other, strict=True))
        ]
        return torch.stack(layers).sum(dim=0)  # (N,)
