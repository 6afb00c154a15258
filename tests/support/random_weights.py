"""Random weights of the networks that metrics and losses use, with fewer channels."""

import torch
from torch import Tensor, nn

from model.metrics import lpips, vgg

_CHANNELS = (64, 128, 256, 512, 512)


def random_vgg(*, convolutions: int, divisor: int = 1) -> dict[str, Tensor]:
    """Return a random state dict (He initialisation) with the shapes of VGG16 (13 convolutions) or
    VGG19 (16), but fewer channels.
    """
    state = {}
    inputs = 3
    for name, index in vgg.convolutions(convolutions).items():
        outputs = max(1, _CHANNELS[int(name[4]) - 1] // divisor)
        weight = torch.empty(outputs, inputs, 3, 3)
        state[f"features.{index}.weight"] = nn.init.kaiming_normal_(weight)
        state[f"features.{index}.bias"] = torch.zeros(outputs)
        inputs = outputs
    return state


def random_alexnet(*, divisor: int = 1) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a random network and heads with AlexNet's shapes, but fewer channels."""
    network, heads = {}, {}
    inputs = 3
    for place, (layer, channels) in enumerate(
        zip(lpips._LAYERS, (64, 192, 384, 256, 256), strict=True)
    ):
        outputs = channels // divisor
        weight = torch.empty(outputs, inputs, layer.side, layer.side)
        network[f"features.{layer.number}.weight"] = nn.init.kaiming_normal_(weight)
        network[f"features.{layer.number}.bias"] = torch.zeros(outputs)
        heads[f"lin{place}.model.1.weight"] = torch.rand(1, outputs, 1, 1)
        inputs = outputs
    return network, heads
