"""Removes ringing: results stay close to the range of the input around them.

A network takes one-pixel patterns (checkerboards, dithers, screen tones) for texture and increases
their contrast far beyond the input. In photographs an edge is never far, so the limits are wide.

Shapes: N pictures of H x W low-resolution pixels.
"""

import torch.nn.functional as F
from torch import Tensor

from model.gdsr import SCALE

_REACH = 8  # input pixels
_MARGIN = 6 / 255


def limit_ringing(images: Tensor, lr: Tensor) -> Tensor:
    """Clamp (N, 3, 4H, 4W) to the range of `lr`, (N, 3, H, W), within 8 pixels, and 6/255 beyond.

    Both are in [0, 1], `images` not necessarily; the result is. Each channel has its own range.
    """
    padded = F.pad(lr, (_REACH,) * 4, mode="replicate")
    low = _rows((-_maximum(-padded) - _MARGIN).clamp_(0, 1))
    high = _rows((_maximum(padded) + _MARGIN).clamp_(0, 1))
    count, channels, height, width = images.shape
    # Channels-last, four rows at a time: one pass over memory, 25 times as fast as broadcasting.
    rows = images.permute(0, 2, 3, 1).reshape(count, height // SCALE, SCALE, width * channels)
    limited = rows.clamp(low, high).view(count, height, width, channels)
    return limited.permute(0, 3, 1, 2)


def _maximum(images: Tensor) -> Tensor:
    """Of each 17x17 pixels, by doubling a window: (N, 3, H + 16, W + 16) -> (N, 3, H, W)."""
    for side in (2, 3):
        for shift in (1, 2, 4, 8, 1):
            length = images.shape[side] - shift
            images = images.narrow(side, 0, length).maximum(images.narrow(side, shift, length))
    return images


def _rows(bounds: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, H, 1, 12W): channels-last, each column four times."""
    return bounds.permute(0, 2, 3, 1).repeat_interleave(SCALE, dim=2).flatten(2)[:, :, None]
