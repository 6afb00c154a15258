"""Building blocks of GDSR: dense blocks, trunks, and the upscaling tail.

All convolutions are 3x3 with bias and zero padding, and there is no normalisation, so every block
accepts any height and width from 1 up and keeps them (the tail makes them 4 times larger).

Wang et al., "ESRGAN" (2018), arXiv:1809.00219, for RDB and RRDB.

Shapes: N batch, C features, G growth, H x W low-resolution pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.2
RESIDUAL_SCALE = 0.2


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


class RDB(nn.Module):
    """Residual dense block: four convolutions, each reading all before it, and one that merges."""

    def __init__(self, *, features: int, growth: int) -> None:
        super().__init__()
        self.grow = nn.ModuleList(conv3x3(features + k * growth, growth) for k in range(4))
        self.merge = conv3x3(features + 4 * growth, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        seen = x
        for conv in self.grow:
            grown = F.leaky_relu_(conv(seen), NEGATIVE_SLOPE)  # (N, G, H, W)
            seen = torch.cat((seen, grown), dim=1)  # (N, C + G, ...) up to (N, C + 4G, H, W)
        merged: Tensor = self.merge(seen)  # (N, C, H, W)
        return torch.add(x, merged, alpha=RESIDUAL_SCALE)


class WideRDB(nn.Module):
    """RDB that computes all convolutions reading a feature map at once, for GPUs.

    Partial sums are added instead of concatenating the maps: fewer and wider convolutions, and no
    copies. Equal to `RDB` up to rounding.
    """

    def __init__(self, block: RDB) -> None:
        super().__init__()
        convs = [*(conv for conv in block.grow if isinstance(conv, nn.Conv2d)), block.merge]
        self.outputs = [conv.out_channels for conv in convs]
        features = convs[0].in_channels
        self.parts = nn.ModuleList()
        for i in range(len(convs)):
            start, stop = (
                (0, features) if i == 0 else (convs[i - 1].in_channels, convs[i].in_channels)
            )
            weight = torch.cat([conv.weight[:, start:stop] for conv in convs[i:]])
            part = nn.Conv2d(stop - start, len(weight), kernel_size=3, padding=1, bias=i == 0)
            part.weight = nn.Parameter(weight, requires_grad=False)
            if part.bias is not None:
                biases = [conv.bias for conv in convs if conv.bias is not None]
                part.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
            self.parts.append(part)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        first, *others = self.parts
        sums = list(first(x).split(self.outputs, dim=1))
        for i, part in enumerate(others):
            grown = F.leaky_relu(sums[i], NEGATIVE_SLOPE)  # (N, G, H, W)
            shares = part(grown).split(self.outputs[i + 1 :], dim=1)
            sums[i + 1 :] = map(torch.add, sums[i + 1 :], shares)
        return torch.add(x, sums[-1], alpha=RESIDUAL_SCALE)


class RRDB(nn.Module):
    """Residual in residual: three dense blocks, scaled by 0.2 and added to the input."""

    def __init__(self, *, features: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(RDB(features=features, growth=growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        refined: Tensor = self.blocks(x)
        return torch.add(x, refined, alpha=RESIDUAL_SCALE)

    def widen(self) -> None:
        """Optimise for a GPU, in place; changes names and shapes of the tensors."""
        wide = (WideRDB(block) if isinstance(block, RDB) else block for block in self.blocks)
        self.blocks = nn.Sequential(*wide)


class Trunk(nn.Module):
    """A chain of RRDBs with a skip connection; no convolution follows the chain."""

    def __init__(self, length: int, *, features: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(RRDB(features=features, growth=growth) for _ in range(length))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        refined: Tensor = self.blocks(x)
        return x + refined


class Enlarge(nn.Module):
    """Upsample features by 2: nearest neighbour, convolution, activation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = conv3x3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        larger = F.interpolate(x, scale_factor=2, mode="nearest")  # (N, C, 2H, 2W)
        return F.leaky_relu_(self.conv(larger), NEGATIVE_SLOPE)


class FoldedEnlarge(nn.Module):
    """`Enlarge` folded into one transposed convolution, for inference.

    Each output is a sum over 2x2 features instead of 3x3 that are mostly copies: 4/9 of the work,
    and no enlarged copy. Equal to `Enlarge` up to rounding.
    """

    def __init__(self, enlarge: Enlarge) -> None:
        super().__init__()
        conv = enlarge.conv
        features = conv.in_channels
        self.conv = nn.ConvTranspose2d(features, features, kernel_size=4, stride=2, padding=1)
        # Each of the 2x2 copies of a feature meets the 3x3 kernel, so their sum is the kernel
        # blurred by 2x2; flipped, because a transposed convolution scatters instead of gathers.
        blurred = 4 * F.avg_pool2d(F.pad(conv.weight, (1, 1, 1, 1)), 2, stride=1)  # (C, C, 4, 4)
        self.conv.load_state_dict({"weight": blurred.flip(2, 3).transpose(0, 1), "bias": conv.bias})

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        return F.leaky_relu_(self.conv(x), NEGATIVE_SLOPE)


class Tail(nn.Module):
    """Upsamples features by 4."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.lr = conv3x3(features, features)
        self.up1: Enlarge | FoldedEnlarge = Enlarge(features)
        self.up2: Enlarge | FoldedEnlarge = Enlarge(features)
        self.hr = conv3x3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 4H, 4W), the last activation included."""
        # The reference has no activation after its first convolution.
        enlarged = self.up2(self.up1(self.lr(x)))  # (N, C, 4H, 4W)
        return F.leaky_relu_(self.hr(enlarged), NEGATIVE_SLOPE)

    def fold(self) -> None:
        """Optimise for inference, in place; changes names and shapes of the tensors."""
        if isinstance(self.up1, Enlarge) and isinstance(self.up2, Enlarge):
            self.up1, self.up2 = FoldedEnlarge(self.up1), FoldedEnlarge(self.up2)


def fold_tails(network: nn.Module) -> None:
    """Optimise every tail in a network for inference, in place."""
    for part in list(network.modules()):
        if isinstance(part, Tail):
            part.fold()


class Branch(nn.Module):
    """A trunk, and the tail that upsamples its features."""

    def __init__(self, length: int, *, features: int, growth: int) -> None:
        super().__init__()
        self.trunk = Trunk(length, features=features, growth=growth)
        self.tail = Tail(features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 4H, 4W)."""
        upsampled: Tensor = self.tail(self.trunk(x))
        return upsampled
