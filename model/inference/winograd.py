"""Trunks of dense blocks with half the multiplications, for float32 on x86 processors.

Four neighbouring results of a row of three taps take six multiplications instead of twelve: F(4, 3)
of Winograd, "Arithmetic Complexity of Computations" (1980), in the form of Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks" (2016), arXiv:1509.09308. It is done along the width
alone. What is left of a 3x3 convolution are six convolutions of 3x1, which run as the groups of
one; in two dimensions matrix products would be left, which are three times slower than these.
A feature map is transformed once for all convolutions that read it.

Equal to `blocks.Trunk` up to rounding: what comes out of the whole network is as far from float64,
a quarter of a level of 16 bits. Half precision has no digit to spare for the transforms.

Shapes: N batch, C features, G growth, I and O features in and out of a convolution, H x W
low-resolution pixels; groups are those of a row.
"""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import NEGATIVE_SLOPE, RDB, RESIDUAL_SCALE, RRDB, Trunk
from model.gdsr import GDSR, GDSRConfig

_RESULTS, _INPUTS = 4, 6
"""Per group: number of output pixels, and number of input pixels that they depend on."""

# The matrices of Lavin and Gray for F(4, 3): for inputs, weights and products.
_OF_INPUTS = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_OF_WEIGHTS = torch.tensor(
    [[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    dtype=torch.float64,
) / 24  # fmt: skip
_OF_PRODUCTS = torch.tensor(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
#: This product contributes equally to all four outputs, so it carries the bias.
_EVEN = 1
#: With 32 features the convolutions of 16 are too narrow: at best as fast as the plain ones.
_FEWEST_FEATURES = 64


def is_supported(config: GDSRConfig) -> bool:
    """Whether `accelerate` makes a network of this shape faster on the CPU of this machine.

    Needs MKL, whose batched products transform the groups; without it each would be a separate
    call.
    """
    return config.features >= _FEWEST_FEATURES and bool(
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # not in torch's stubs
    )


def accelerate(generator: GDSR) -> None:
    """Replace the trunks of a float32 generator on the CPU; for inference."""
    for parent in list(generator.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, Trunk):
                setattr(parent, name, WinogradTrunk(part))


class Rows(NamedTuple):
    """Feature maps as rows of groups of four pixels, one after the other.

    Each row is followed by at least one pixel of zeros, at most a group of them, and the first row
    is preceded by one: so the neighbours of every group are adjacent in memory, and pixels beyond a
    border are zero, as a convolution needs.
    """

    pixels: Tensor
    """(1 + N * H * groups * 4 + 1, C)."""
    batch: int
    height: int
    width: int

    @property
    def groups(self) -> int:
        """Groups per row."""
        return self.width // _RESULTS + 1

    @classmethod
    def empty(cls, batch: int, channels: int, height: int, width: int) -> Self:
        """Allocate, with only the zeros filled in."""
        length = batch * height * (width // _RESULTS + 1) * _RESULTS
        rows = cls(torch.empty(1 + length + 1, channels), batch, height, width)
        rows.pixels[0], rows.pixels[-1] = 0, 0
        rows.close()
        return rows

    def close(self) -> None:
        """Zero the pixels beyond the right border."""
        self._all()[:, :, self.width :] = 0

    def images(self) -> Tensor:
        """The maps in standard form, (N, C, H, W), channels-last; a view."""
        return self._all()[:, :, : self.width].permute(0, 3, 1, 2)

    def results(self) -> Tensor:
        """The pixels of every group: (N * H * groups, 4, C); a view."""
        return self.pixels[1:-1].view(-1, _RESULTS, self.pixels.shape[1])

    def transformed(self) -> Tensor:
        """The transformed inputs of every group: (N, H, groups, 6, C)."""
        windows = self.pixels.unfold(0, _INPUTS, _RESULTS).transpose(1, 2)  # (..., 6, C)
        many = _OF_INPUTS.expand(len(windows), -1, -1)
        return torch.bmm(many, windows).view(
            self.batch, self.height, self.groups, _INPUTS, self.pixels.shape[1]
        )

    def _all(self) -> Tensor:
        row = self.groups * _RESULTS
        return self.pixels[1:-1].view(self.batch, self.height, row, self.pixels.shape[1])


class _Products(nn.Module):
    """The multiplications of a 3x3 convolution, multiplied by `scale`."""

    def __init__(self, conv: nn.Conv2d, *, scale: float = 1.0) -> None:
        super().__init__()
        weight = torch.einsum("pw,oihw->poih", _OF_WEIGHTS, conv.weight.double() * scale)
        weight = weight.flatten(0, 1).unsqueeze(-1).float()  # (6 O, I, 3, 1)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        bias = torch.zeros(_INPUTS, conv.out_channels)
        if conv.bias is not None:
            bias[_EVEN] = conv.bias * scale
        self.bias = bias.flatten()

    def forward(self, seen: Tensor) -> Tensor:
        """(N, H, groups, 6, I) -> (N * H * groups, 6, O)."""
        side_by_side = seen.flatten(3).permute(0, 3, 1, 2)  # (N, 6 I, H, groups), channels-last
        products = F.conv2d(side_by_side, self.weight, self.bias, padding=(1, 0), groups=_INPUTS)
        return products.permute(0, 2, 3, 1).reshape(-1, _INPUTS, len(self.bias) // _INPUTS)


class WinogradRDB(nn.Module):
    """`RDB`, on `Rows`."""

    def __init__(self, block: RDB) -> None:
        super().__init__()
        self.grow = nn.ModuleList(
            _Products(conv) for conv in block.grow if isinstance(conv, nn.Conv2d)
        )
        self.merge = _Products(block.merge, scale=RESIDUAL_SCALE)

    def forward(self, x: Rows) -> Rows:
        """As many features as in the input."""
        seen = x.transformed()  # (N, H, groups, 6, C)
        many = _OF_PRODUCTS.expand(len(x.results()), -1, -1)
        for conv in self.grow:
            products = conv(seen)
            grown = Rows.empty(x.batch, products.shape[-1], x.height, x.width)
            torch.bmm(many, products, out=grown.results())
            F.leaky_relu_(grown.pixels, NEGATIVE_SLOPE)
            grown.close()
            seen = torch.cat((seen, grown.transformed()), dim=-1)  # up to (..., 6, C + 4G)
        merged = Rows.empty(x.batch, x.pixels.shape[1], x.height, x.width)
        torch.baddbmm(x.results(), many, self.merge(seen), out=merged.results())
        merged.close()
        return merged


class WinogradTrunk(nn.Module):
    """`Trunk` for inference, with its weights."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(*(WinogradRDB(rdb) for rdb in rrdb.blocks if isinstance(rdb, RDB)))
            for rrdb in trunk.blocks
            if isinstance(rrdb, RRDB)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), float32 on the CPU."""
        batch, channels, height, width = x.shape
        rows = Rows.empty(batch, channels, height, width)
        rows.images().copy_(x)
        for block in self.blocks:
            refined = block(rows).pixels
            rows = rows._replace(pixels=torch.add(rows.pixels, refined, alpha=RESIDUAL_SCALE))
        return x + rows.images()
