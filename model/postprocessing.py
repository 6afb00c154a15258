"""Limits results to the local mean colours and the local range of their input.

A network shifts colours by some levels, differently in each picture. It also takes one-pixel
patterns (checkerboards, dithers, screen tones) for texture and increases their contrast far beyond
the input. Photographs have edges nearly everywhere, so their limits of the range are wide.

Shapes: N pictures of H x W low-resolution pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.gdsr import SCALE
from model.resize import bicubic_down, bicubic_up

_COLOUR_REACH = 4  # input pixels; 9x9 of them average out noise and JPEG blocks of 8x8
_RANGE_REACH = 8
_RANGE_MARGIN = 6 / 255


def postprocess(images: Tensor, lr: Tensor) -> Tensor:
    """Limit (N, 3, 4H, 4W) to the colours and the range of `lr`, (N, 3, H, W) in [0, 1].

    `images` are not necessarily in [0, 1]; the result is.
    """
    return limit_ringing(keep_colours(images, lr), lr)


def keep_colours(images: Tensor, lr: Tensor) -> Tensor:
    """Shift (N, 3, 4H, 4W) to the mean of `lr`, (N, 3, H, W), within 9x9 input pixels.

    One step of back-projection (Irani and Peleg, 1991) with a filter so wide that neither noise nor
    compression artefacts of the input return. A window at the border repeats the last pixels.
    """
    count, channels, height, width = lr.shape
    # Rows, then columns: four times as fast as avg_pool2d on three channels-last channels.
    rows = images.permute(0, 2, 3, 1).reshape(count, height, SCALE, SCALE * width * channels)
    means = rows.mean(2).view(count, height, width, SCALE, channels).mean(3).permute(0, 3, 1, 2)
    error = F.pad(lr - means, (_COLOUR_REACH,) * 4, mode="replicate")
    for side in (2, 3):  # the mean of 9 pixels, by doubling a window
        twice = _pairs(torch.add, error, side, 1)
        eight = _pairs(torch.add, _pairs(torch.add, twice, side, 2), side, 4)
        last = error.narrow(side, 8, error.shape[side] - 8)
        error = eight.narrow(side, 0, last.shape[side]).add_(last).div_(9)
    return F.interpolate(error, scale_factor=SCALE, mode="bilinear").add_(images)


def back_projected(images: Tensor, lr: Tensor) -> Tensor:
    """One step of back-projection (Irani and Peleg, 1991): images + up(lr - down(images)).

    (N, 3, 4H, 4W), (N, 3, H, W) -> (N, 3, 4H, 4W), in float32, which may leave [0, 1]. Its reach is
    4 input pixels.
    """
    images = images.float()
    return images + bicubic_up(lr.float() - bicubic_down(images))


def limit_ringing(images: Tensor, lr: Tensor) -> Tensor:
    """Clamp (N, 3, 4H, 4W) to the range of `lr`, (N, 3, H, W), within 8 pixels, and 6/255 beyond.

    `lr` and the result are in [0, 1], `images` not necessarily. Each channel has its own range.
    """
    padded = F.pad(lr, (_RANGE_REACH,) * 4, mode="replicate")
    low = _rows((-_maximum(-padded) - _RANGE_MARGIN).clamp_(0, 1))
    high = _rows((_maximum(padded) + _RANGE_MARGIN).clamp_(0, 1))
    count, channels, height, width = images.shape
    # Channels-last, four rows at a time: one pass over memory, 25 times as fast as broadcasting.
    rows = images.permute(0, 2, 3, 1).reshape(count, height // SCALE, SCALE, width * channels)
    limited = rows.clamp(low, high).view(count, height, width, channels)
    return limited.permute(0, 3, 1, 2)


def _maximum(images: Tensor) -> Tensor:
    """Maximum of 17x17 pixels, by doubling a window: (N, 3, H + 16, W + 16) -> (N, 3, H, W)."""
    for side in (2, 3):
        for shift in (1, 2, 4, 8, 1):
            images = _pairs(torch.maximum, images, side, shift)
    return images


def _rows(bounds: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, H, 1, 12W): channels-last, each column four times."""
    return bounds.permute(0, 2, 3, 1).repeat_interleave(SCALE, dim=2).flatten(2)[:, :, None]


def _pairs(
    combine: Callable[[Tensor, Tensor], Tensor], images: Tensor, side: int, shift: int
) -> Tensor:
    """Combine each pixel with the one `shift` further along a dimension."""
    length = images.shape[side] - shift
    return combine(images.narrow(side, 0, length), images.narrow(side, shift, length))
