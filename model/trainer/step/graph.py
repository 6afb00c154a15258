"""A step as one CUDA graph: a thousand kernels for the cost of one launch.

The first training steps run eagerly, on a side stream: they trigger compilation and fill the
allocator. Then a step is captured, which runs nothing, and replayed from then on.
"""

from collections.abc import Callable

import torch

from model.trainer.data.batches import Batch
from model.trainer.step.step import Terms

_EAGER_STEPS = 3


class GraphedStep:
    """Replaces a step, for batches of one shape on one CUDA device."""

    def __init__(self, step: Callable[[Batch], Terms]) -> None:
        self._step = step
        self._taken = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()
        self._batch: Batch | None = None
        self._terms: Terms = {}

    def __call__(self, batch: Batch) -> Terms:
        if self._taken < _EAGER_STEPS:
            self._taken += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                terms = self._step(batch)
            torch.cuda.current_stream().wait_stream(self._stream)
            return terms
        if self._batch is None:
            teacher = None if batch.teacher is None else batch.teacher.clone()
            self._batch = Batch(lr=batch.lr.clone(), hr=batch.hr.clone(), teacher=teacher)
            # Thread-local capture: the loader pins memory in its own thread.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._terms = self._step(self._batch)
        for kept, given in zip(self._batch, batch, strict=True):
            if kept is not None and given is not None:
                kept.copy_(given)
        self._graph.replay()
        return self._terms
