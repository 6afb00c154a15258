"""VGG16 and VGG19 features for the perceptual loss, tapped before their activations.

Simonyan and Zisserman (2015), arXiv:1409.1556. The weights are the convolutions of torchvision's
ImageNet classifiers under torchvision's names (`features.0.weight`, ...); their number says which
of the two networks they are. Features before the activation are denser, which ESRGAN found to guide
better (arXiv:1809.00219, section 3.3).

Shapes: N batch, H x W pixels of images in [0, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoint import CheckpointInvalid

_DEPTHS = {
    13: (2, 2, 3, 3, 3),
    16: (2, 2, 4, 4, 4),
}  # number of convolutions -> convolutions in each of five blocks
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)

_max_pool = partial(F.max_pool2d, kernel_size=2)


class VGG(nn.Module):
    """VGG up to the deepest tap; frozen, but gradients pass through to the images."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, state: Mapping[str, Tensor], taps: Sequence[str]) -> None:
        """Taps are named as in the paper: `conv5_4` is the fourth convolution of block 5.

        Raises:
            CheckpointInvalid: `state` is neither VGG16 nor VGG19.
            ValueError: a tap does not exist.
        """
        super().__init__()
        count = sum(name.startswith("features.") and "weight" in name for name in state)
        if count not in _DEPTHS:
            raise CheckpointInvalid(
                f"{count} convolutions named features.N; VGG16 has 13, VGG19 has 16"
            )
        indices = convolutions(count)
        names = list(indices)
        if not taps or not set(taps) <= set(names):
            raise ValueError(f"taps are of {', '.join(names)}; got {', '.join(taps) or 'none'}")
        self.taps = tuple(taps)
        self.names = names[: max(map(names.index, taps)) + 1]
        self.convs = nn.ModuleList(_convolution(state, indices[name]) for name in self.names)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))
        self.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor, pool: Callable[[Tensor], Tensor] = _max_pool) -> list[Tensor]:
        """(N, 3, H, W) -> the features at each tap, (N, C, H / 2^b, W / 2^b) in block 1 + b.

        `pool` halves the sides between blocks.
        """
        x = (images - self.mean) / self.deviation
        tapped = {}
        for name, conv in zip(self.names, self.convs, strict=True):
            if name.endswith("_1") and name != "conv1_1":
                x = pool(x)  # (N, C, H / 2, W / 2)
            x = conv(x)
            tapped[name] = x
            x = F.relu(x)
        return [tapped[name] for name in self.taps]


def convolutions(count: int) -> dict[str, int]:
    """Index of each convolution in torchvision's `features`, with activations and pools between."""
    names = [
        f"conv{block}_{conv}"
        for block, depth in enumerate(_DEPTHS[count], start=1)
        for conv in range(1, depth + 1)
    ]
    return {name: 2 * index + int(name[4]) - 1 for index, name in enumerate(names)}


def _convolution(state: Mapping[str, Tensor], index: int) -> nn.Conv2d:
    named = {kind: taken(state, f"features.{index}.{kind}") for kind in ("weight", "bias")}
    outputs, inputs = named["weight"].shape[:2]
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
    conv.load_state_dict(named)
    return conv


def taken(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor in float32; raises CheckpointInvalid if it is missing."""
    if name not in state:
        raise CheckpointInvalid(f"tensor {name} is missing")
    return state[name].float()
