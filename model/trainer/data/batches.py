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
from torch import Tensor

from model.gdsr import SCALE
from model.trainer.config import Data
from model.trainer.data.patches import PatchPositions, cut
from model.trainer.data.patterns import replace_with_patterns
from model.trainer.data.photographs import Photographs
from model.trainer.degradations.degradations import Degradation, shrink

_AHEAD = 4  # batches that the loader prepares ahead
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
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.photographs = photographs
        self.device = device
        self.waited = 0.0
        """Seconds that the loop waited for the loader."""
        self._data = data
        self._degradation = degradation
        self._seed = seed
        self._context = _DEGRADED_CONTEXT if degradation else _BICUBIC_CONTEXT
        each = data.batch // processes
        self._part = slice(rank * each, (rank + 1) * each)
        self._rank = rank
        self._generator = torch.Generator(device)
        side = SCALE * data.patch
        rows, columns = photographs.heights.cpu() - side + 1, photographs.widths.cpu() - side + 1
        self._places = (rows * columns).cumsum(0).numpy()
        self._columns = columns.numpy()

    def at(self, step: int) -> Batch:
        """The batch of one step."""
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
            coming = deque(loader.submit(load, first + ahead) for ahead in range(_AHEAD))
            for step in count(first):
                coming.append(loader.submit(load, step + _AHEAD))
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
        picks = self._picks(step).to(self.photographs.pixels.device)
        side, context = SCALE * self._data.patch, SCALE * self._context
        return cut(self.photographs, picks, side=side, context=context)

    def _picks(self, step: int) -> PatchPositions:
        """Draw patches; every patch of every photograph has the same probability."""
        random = np.random.default_rng((self._seed, step))
        place = random.integers(self._places[-1], size=self._data.batch)
        photograph = np.searchsorted(self._places, place, side="right")
        place -= np.where(photograph > 0, self._places[photograph - 1], 0)
        top, left = np.divmod(place, self._columns[photograph])
        turn = random.integers(8, size=self._data.batch)
        return PatchPositions(
            *(torch.from_numpy(values[self._part]) for values in (photograph, top, left, turn))
        )

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
