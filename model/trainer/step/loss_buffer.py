"""Loss values on their way from the device, read one step late so that it never waits.

A value that is not finite is found before anything is saved: whoever saves flushes first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.trainer.step.step import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The loss terms of one step; `step` counts from 0."""

    step: int
    terms: Mapping[str, float]

    @property
    def broken(self) -> str:
        """The first term that is NaN or infinite, or nothing."""
        return next((name for name, value in self.terms.items() if not math.isfinite(value)), "")


class LossBuffer:
    """Takes the terms of each step; gives them back at once on a CPU, those of before on CUDA."""

    def __init__(self) -> None:
        self._coming: tuple[int, Terms, Tensor, torch.cuda.Event] | None = None

    def put(self, step: int, terms: Terms) -> Entry | None:
        """Enter a step; what is returned is the last one whose values are there."""
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
        """Wait for what was entered last and not yet given."""
        if self._coming is None:
            return None
        step, terms, values, arrived = self._coming
        self._coming = None
        arrived.synchronize()
        return _entry(step, terms, values)


def _entry(step: int, terms: Terms, values: Tensor) -> Entry:
    return Entry(step=step, terms=dict(zip(terms, values.tolist(), strict=True)))
