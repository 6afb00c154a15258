"""Cuts patches from photographs in batch, with flips and rotations.

Shapes: N patches of S x S pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.trainer.data.photographs import Photographs


class PatchPositions(NamedTuple):
    """Positions of patches: (N,) each."""

    photograph: Tensor
    top: Tensor
    left: Tensor
    turn: Tensor
    """0 to 7: one of the eight flips and rotations."""

    def to(self, device: torch.device) -> "PatchPositions":
        return PatchPositions(*(values.to(device, non_blocking=True) for values in self))


def cut(photographs: Photographs, picks: PatchPositions, *, side: int, context: int) -> Tensor:
    """Patches of `side` pixels with `context` around them: (N, 3, S, S) bytes.

    Beyond the border of a photograph its last pixel is repeated. `turn` rotates the patch, not its
    position, so all eight contain the same pixels.
    """
    size = side + 2 * context
    if photographs.pixels.is_cuda:
        patches = gathered(photographs, picks, size=size, context=context)
    else:
        patches = sliced(photographs, picks, size=size, context=context)
    return patches.permute(0, 3, 1, 2)


def gathered(photographs: Photographs, picks: PatchPositions, *, size: int, context: int) -> Tensor:
    """Patches by one gather, fast on a GPU: (N, S, S, 3)."""
    place = torch.arange(size, device=photographs.pixels.device)
    row, column = place.view(1, -1, 1), place.view(1, 1, -1)
    turn = picks.turn.view(-1, 1, 1)
    y = torch.where(turn & 1 == 0, row, column)  # (N, S, S)
    x = torch.where(turn & 1 == 0, column, row)
    y = torch.where(turn & 2 == 0, y, size - 1 - y) + picks.top.view(-1, 1, 1) - context
    x = torch.where(turn & 4 == 0, x, size - 1 - x) + picks.left.view(-1, 1, 1) - context
    height = photographs.heights[picks.photograph].view(-1, 1, 1)
    width = photographs.widths[picks.photograph].view(-1, 1, 1)
    start = photographs.starts[picks.photograph].view(-1, 1, 1)
    y, x = torch.minimum(y.clamp(min=0), height - 1), torch.minimum(x.clamp(min=0), width - 1)
    return photographs.pixels[start + y * width + x]


def sliced(photographs: Photographs, picks: PatchPositions, *, size: int, context: int) -> Tensor:
    """Patches by slices, twenty times faster in memory: (N, S, S, 3)."""
    flat = photographs.pixels.numpy()
    patches = np.empty((len(picks.turn), size, size, 3), dtype=np.uint8)
    for patch, (photograph, top, left, turn) in zip(patches, torch.stack(picks, 1), strict=True):
        start, height, width = (
            int(values[photograph])
            for values in (photographs.starts, photographs.heights, photographs.widths)
        )
        image = flat[start : start + height * width].reshape(height, width, 3)
        part = _window(image, top=int(top) - context, left=int(left) - context, size=size)
        patch[:] = turned(part, int(turn))
    return torch.from_numpy(patches)


def turned(patch: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of the eight flips and quarter turns."""
    patch = patch[::-1] if turn & 2 else patch
    patch = patch[:, ::-1] if turn & 4 else patch
    return patch.transpose(1, 0, 2) if turn & 1 else patch


def _window(image: NDArray[np.uint8], *, top: int, left: int, size: int) -> NDArray[np.uint8]:
    """(S, S, 3) of an image with replicated borders."""
    height, width = image.shape[:2]
    inside = image[max(0, top) : top + size, max(0, left) : left + size]
    beyond = (
        (max(0, -top), max(0, top + size - height)),
        (max(0, -left), max(0, left + size - width)),
        (0, 0),
    )
    return np.pad(inside, beyond, mode="edge") if np.any(beyond) else inside
