"""Synthetic test patterns of single pixels, as in screenshots, scans and pixel art.

Photographs hardly contain such patterns, so a network trained only on photographs rings on them.
Patterns are generated in any size; the same seed gives the same patterns.

Shapes: H x W pixels, bytes of RGB.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from model.trainer.data.patterns import BAYER

_PAIRS = ((190, 255), (0, 255), (64, 192))
_MIN_CONTRAST = 32  # levels between the two colours of a coloured checkerboard, per channel


def patterns(*, height: int, width: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Names and pictures, (3, H, W) bytes.

    The seed determines the phase of each pattern, the colours of the coloured one, and the
    direction of the dithered gradient.
    """
    random = torch.Generator().manual_seed(seed)

    def drawn(low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=random)

    top, left = drawn(0, 4, 2).tolist()
    y = torch.arange(top, top + height)[:, None].expand(height, width)
    x = torch.arange(left, left + width)[None, :].expand(height, width)
    checks = (y + x) % 2 == 0

    for dark, light in _PAIRS:
        levels = torch.tensor([[dark] * 3, [light] * 3])
        yield f"checkerboard {dark}/{light}", _coloured(checks, levels)
        yield f"horizontal lines {dark}/{light}", _coloured(y % 2 == 0, levels)
        yield f"vertical lines {dark}/{light}", _coloured(x % 2 == 0, levels)
    ink = torch.tensor([[0] * 3, [255] * 3])
    yield "screen tone", _coloured((y % 2 == 0) & (x % 2 == 0), ink.flip(0))
    yield "dithered gradient", _coloured(_dithered(y, x, *drawn(0, 2, 2).tolist()), ink)
    darks = drawn(0, 256 - _MIN_CONTRAST, 3)
    lights = (darks + _MIN_CONTRAST + drawn(0, 256, 3)).clamp(max=255)
    yield "coloured checkerboard", _coloured(checks, torch.stack((darks, lights)))


def _dithered(y: Tensor, x: Tensor, upwards: int, leftwards: int) -> Tensor:
    """A gradient between two corners, dithered to black and white by Bayer's 4x4 matrix: (H, W)."""
    down, right = (
        (steps - steps.min()) / max(1, int(steps.max() - steps.min())) for steps in (y, x)
    )
    shade = ((1 - down if upwards else down) + (1 - right if leftwards else right)) / 2
    return shade > torch.from_numpy(BAYER)[y % 4, x % 4]


def _coloured(where: Tensor, colours: Tensor) -> Tensor:
    """(H, W) of bool, and two RGB colours, the second for True -> (3, H, W) bytes."""
    return colours.to(torch.uint8)[where.long()].permute(2, 0, 1).contiguous()
