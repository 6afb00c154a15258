"""Batches cut from the teacher's cache, as a pure function of the seed and the step.

Shapes: N patches of one process, S x S low-resolution pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.gdsr import SCALE
from model.trainer.config import SHARD, Data, Teacher
from model.trainer.data.batches import Batch, turned
from model.trainer.data.patterns import replace_with_patterns
from model.trainer.data.teacher import shard_file
from model.trainer.errors import TrainingError
from model.trainer.parallel import Processes

_KINDS = ("input", "photograph", "teacher")
_SCALES = (1, SCALE, SCALE)


class CachedBatches:
    """Patches of degraded pictures, of their photographs and of the teacher's outputs."""

    waited = 0.0
    """Seconds that the loop waited for a loader; 0, as there is none."""

    def __init__(
        self,
        folder: Path,
        teacher: Teacher,
        data: Data,
        *,
        seed: int,
        processes: Processes,
    ) -> None:
        """Map all arrays into memory.

        Raises:
            TrainingError: an array is missing, damaged or has the wrong shape.
        """
        self._arrays = [
            tuple(_mapped(folder, shard, kind, teacher.side) for kind in _KINDS)
            for shard in range(-(-teacher.pictures // SHARD))
        ]
        self._places = teacher.side - data.patch + 1
        self._data = data
        self._seed = seed
        self._device = processes.device
        each = data.batch // processes.count
        self._part = slice(processes.rank * each, (processes.rank + 1) * each)

    def at(self, step: int) -> Batch:
        """The batch of one step."""
        random = np.random.default_rng((self._seed, step))
        limits = (len(self._arrays), SHARD, self._places, self._places, 8)
        picks = random.integers(limits, size=(self._data.batch, len(limits)))[self._part]
        patches = [
            [
                turned(self._window(array[picture], scale, top=top, left=left), turn)
                for array, scale in zip(self._arrays[shard], _SCALES, strict=True)
            ]
            for shard, picture, top, left, turn in picks.tolist()
        ]
        lr, hr, taught = (self._tensor(parts) for parts in zip(*patches, strict=True))
        # Teachers invent detail in patterns, so a pattern replaces the teacher's target too.
        replace_with_patterns(lr, (hr, taught), self._data, self._part, seed=(self._seed, step))
        return Batch(lr=lr, hr=hr, teacher=taught)

    @contextmanager
    def stream(self, first: int) -> Iterator[Iterator[Batch]]:
        """Batches from the step `first` on, without end."""
        yield map(self.at, count(first))

    def _window(
        self, picture: NDArray[np.uint8], scale: int, *, top: int, left: int
    ) -> NDArray[np.uint8]:
        """A patch at a position in low-resolution pixels."""
        side, top, left = scale * self._data.patch, scale * top, scale * left
        return picture[top : top + side, left : left + side]

    def _tensor(self, patches: tuple[NDArray[np.uint8], ...]) -> Tensor:
        """(N, 3, S, S) in [0, 1]."""
        pixels = torch.from_numpy(np.stack(patches)).to(self._device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2).float().div_(255)


def _mapped(folder: Path, shard: int, kind: str, side: int) -> NDArray[np.uint8]:
    path = shard_file(folder, shard, kind)
    length = side if kind == "input" else SCALE * side
    shape = (SHARD, length, length, 3)
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is damaged or missing ({error}): delete it") from None
    if array.shape != shape or array.dtype != np.uint8:
        raise TrainingError(f"{path} holds {array.dtype} of {array.shape}, not bytes of {shape}")
    return array
