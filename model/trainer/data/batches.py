"""Batches as a pure function of the seed and the step.

A resumed run therefore sees the same batches as an uninterrupted one, and a batch can be recreated
for inspection. Several processes each take their part of the same batch.

Shapes: N patches of one process, S x S low-resolution pixels.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.gdsr import SCALE
from model.trainer.config import Data
from model.trainer.data.patterns import replace_with_patterns
from model.trainer.data.photographs import Photographs, turned
from model.trainer.degradations.degradations import Degradation, shrink
from model.trainer.parallel import Processes

_PREFETCHED = 4  # batches that the loader prepares ahead
_BICUBIC_CONTEXT = 2  # reach of the bicubic kernel beyond a patch, in low-resolution pixels
_DEGRADED_CONTEXT = 8  # reach of most blurs, through two resizes


class Batch(NamedTuple):
    """In [0, 1]: `lr`, (N, 3, S, S); `hr` and the teacher's outputs, (N, 3, 4S, 4S) each."""

    lr: Tensor
    hr: Tensor
    teacher: Tensor | None = None


class Batches:
    """Batches of patches with their low-resolution copies, on `device`."""

    def __init__(
        self,
        photographs: Photographs,
        data: Data,
        *,
        degradation: Degradation | None,
        seed: int,
        processes: Processes,
    ) -> None:
        self.photographs = photographs
        self.device = processes.device
        self.waited = 0.0
        """Seconds that the loop waited for the loader."""
        self._data = data
        self._degradation = degradation
        self._seed = seed
        self._context = _DEGRADED_CONTEXT if degradation else _BICUBIC_CONTEXT
        self._part = processes.part(data.batch)
        self._rank = processes.rank
        self._generator = torch.Generator(processes.device)
        side = SCALE * data.patch
        rows, columns = photographs.heights.cpu() - side + 1, photographs.widths.cpu() - side + 1
        self._ends = (rows * columns).cumsum(0).numpy()
        self._columns = columns.numpy()

    def at(self, step: int) -> Batch:
        return self._finished(step, self._patches(step))

    @contextmanager
    def stream(self, first: int) -> Iterator[Iterator[Batch]]:
        """Batches from the step `first` on, without end.

        If the pixels are not on the device, a thread cuts patches ahead.
        """
        if self._data.keep == "device":
            yield map(self.at, count(first))
            return

        def load(step: int) -> Tensor:
            patches = self._patches(step)
            return patches.pin_memory() if self.device.type == "cuda" else patches

        def batches() -> Iterator[Batch]:
            coming = deque(loader.submit(load, first + ahead) for ahead in range(_PREFETCHED))
            for step in count(first):
                coming.append(loader.submit(load, step + _PREFETCHED))
                start = time.perf_counter()
                patches = coming.popleft().result()
                self.waited += time.perf_counter() - start
                yield self._finished(step, patches)

        loader = ThreadPoolExecutor(1)
        try:
            yield batches()
        finally:
            loader.shutdown(cancel_futures=True)

    def _patches(self, step: int) -> Tensor:
        """Patches with context, on the device of the pixels: (N, 3, 4S', 4S') bytes."""
        picks = self._picks(step).to(self.photographs.pixels.device, non_blocking=True)
        side, context = SCALE * self._data.patch, SCALE * self._context
        return cut(self.photographs, picks, side=side, context=context)

    def _picks(self, step: int) -> Tensor:
        """Draw patches for `cut`; every patch of every photograph has the same probability."""
        random = np.random.default_rng((self._seed, step))
        position = random.integers(self._ends[-1], size=self._data.batch)
        photograph = np.searchsorted(self._ends, position, side="right")
        position -= np.where(photograph > 0, self._ends[photograph - 1], 0)
        top, left = np.divmod(position, self._columns[photograph])
        turn = random.integers(8, size=self._data.batch)
        return torch.from_numpy(np.stack((photograph, top, left, turn), axis=1)[self._part])

    def _finished(self, step: int, patches: Tensor) -> Batch:
        random = np.random.default_rng((self._seed, step, 1 + self._rank))
        self._generator.manual_seed(int(random.integers(2**63)))
        patches = patches.to(self.device, non_blocking=True)
        lr = shrink(patches, self._degradation, self._generator)
        context = self._context
        edge = SCALE * context
        # Crop the context, which was needed for realistic borders after downscaling.
        lr = lr[..., context:-context, context:-context]
        hr = patches[..., edge:-edge, edge:-edge]
        batch = Batch(lr=lr.float().div_(255), hr=hr.float().div_(255))
        replace_with_patterns(
            batch.lr, (batch.hr,), self._data, self._part, seed=(self._seed, step)
        )
        return batch


def cut(photographs: Photographs, picks: Tensor, *, side: int, context: int) -> Tensor:
    """Patches of `side` pixels with `context` around them: (N, 3, S, S) bytes.

    `picks` are photograph, top, left and turn of each patch, (N, 4); a turn is one of the eight
    flips and rotations, 0 to 7. It rotates the patch, not its position, so all eight contain the
    same pixels. Beyond the border of a photograph its last pixel is repeated.
    """
    size = side + 2 * context
    if photographs.pixels.is_cuda:
        patches = gathered(photographs, picks, size=size, context=context)
    else:
        patches = sliced(photographs, picks, size=size, context=context)
    return patches.permute(0, 3, 1, 2)


def gathered(photographs: Photographs, picks: Tensor, *, size: int, context: int) -> Tensor:
    """Patches by one gather, fast on a GPU: (N, S, S, 3)."""
    offset = torch.arange(size, device=photographs.pixels.device)
    row, column = offset.view(1, -1, 1), offset.view(1, 1, -1)
    photograph, top, left, turn = picks.view(-1, 4, 1, 1).unbind(1)  # (N, 1, 1) each
    y = torch.where(turn & 1 == 0, row, column)  # (N, S, S)
    x = torch.where(turn & 1 == 0, column, row)
    y = torch.where(turn & 2 == 0, y, size - 1 - y) + top - context
    x = torch.where(turn & 4 == 0, x, size - 1 - x) + left - context
    height, width = photographs.heights[photograph], photographs.widths[photograph]
    start = photographs.starts[photograph]
    y, x = torch.minimum(y.clamp(min=0), height - 1), torch.minimum(x.clamp(min=0), width - 1)
    return photographs.pixels[start + y * width + x]


def sliced(photographs: Photographs, picks: Tensor, *, size: int, context: int) -> Tensor:
    """Patches by slices, twenty times faster in memory: (N, S, S, 3)."""
    flat = photographs.pixels.numpy()
    patches = np.empty((len(picks), size, size, 3), dtype=np.uint8)
    for patch, (photograph, top, left, turn) in zip(patches, picks.tolist(), strict=True):
        start, height, width = (
            int(values[photograph])
            for values in (photographs.starts, photographs.heights, photographs.widths)
        )
        image = flat[start : start + height * width].reshape(height, width, 3)
        part = _window(image, top=top - context, left=left - context, size=size)
        patch[:] = turned(part, turn)
    return torch.from_numpy(patches)


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
