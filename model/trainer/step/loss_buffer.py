"""Loss values in transit from the device, read one step late so that the loop never waits.

A value that is not finite is found before anything is saved: saving flushes first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.trainer.step.step import Terms


class Entry(NamedTuple):
    """The loss terms of one step; `step` counts from 0."""

    step: int
    terms: dict[str, float]


class LossBuffer:
    """Buffers loss terms: returned at once on a CPU, one step late on CUDA."""

    def __init__(self) -> None:
        self._coming: tuple[int, Terms, Tensor, torch.cuda.Event] | None = None

    def put(self, step: int, terms: Terms) -> Entry | None:
        """Add a step; returns the latest one whose values have arrived."""
        before = self.flush()
        values = torch.stack(list(terms.values()))
        if not values.is_cuda:
            return _entry(step, terms, values)
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._coming = step, terms, pinned, arrived
        return before

    def flush(self) -> Entry | None:
        """Wait for and return the last step that was not returned yet."""
        if self._coming is None:
            return None
        step, terms, values, arrived = self._coming
        self._coming = None
        arrived.synchronize()
        return _entry(step, terms, values)


def _entry(step: int, terms: Terms, values: Tensor) -> Entry:
    return Entry(step, dict(zip(terms, values.tolist(), strict=True)))
