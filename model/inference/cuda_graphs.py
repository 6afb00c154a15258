"""GPU optimisations: compiled blocks, CUDA graphs, asynchronous copies.

Each part is independent, and documents its effect on each device. Shapes: N tiles in a batch, T x T
pixels in a tile.
"""

import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor

from model.blocks import RRDB
from model.gdsr import GDSR, GDSROutput, Part

Network = Callable[[Tensor, Collection[Part]], GDSROutput]
"""(N, 3, T, T) -> the requested images; see `GDSR.forward`."""

#: Maximum number of graphs of a network; further shapes run without one.
_MAX_GRAPHS = 16
_WARM_UP_RUNS = 3


def compile_blocks(generator: GDSR, trial: Tensor) -> str | None:
    """Compile every RRDB, on any device; return None, or the reason of a failure in one line.

    All blocks share one piece of code, so one compilation per shape serves them all: seconds, where
    the whole graph takes minutes. `trial`, (N, C, H, W), is run through the first block; if that
    fails (no C compiler, no Triton, a read-only cache) the blocks stay uncompiled.
    """
    blocks = [part for part in generator.modules() if isinstance(part, RRDB)]
    for block in blocks:
        block.compile(dynamic=False)
    try:
        with torch.inference_mode():
            blocks[0](trial)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, OSError, ImportError) as failure:
        for block in blocks:
            block._compiled_call_impl = None  # noqa: SLF001 - torch has no public way back
        return (str(failure).strip() or type(failure).__name__).splitlines()[0]
    return None


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    lr: Tensor
    output: GDSROutput


class Graphs:
    """CUDA only: replays a network for known batch shapes as a single launch.

    Small tiles would otherwise be bound by launch overhead. All graphs share one memory pool:
    results are valid until the next replay, so the caller reads them in stream order.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[tuple[object, ...], _Recorded] = {}

    def __call__(self, lr: Tensor, parts: Collection[Part]) -> GDSROutput:
        """See `GDSR.forward`; recorded when a combination of shape and parts is first seen."""
        key = (lr.shape, lr.dtype, tuple(parts))
        recorded = self._recorded.get(key)
        if recorded is None:
            if len(self._recorded) >= _MAX_GRAPHS:
                return self._network(lr, parts)
            recorded = self._recorded[key] = self._record(lr, parts)
        recorded.lr.copy_(lr)
        recorded.graph.replay()
        return recorded.output

    def forget(self) -> None:
        """Drop all graphs and their memory, when memory is short."""
        self._recorded.clear()
        self._pool = torch.cuda.graph_pool_handle()

    def _record(self, lr: Tensor, parts: Collection[Part]) -> _Recorded:
        static = lr.clone(memory_format=torch.preserve_format)
        # Compilation, cuDNN's algorithm choice and lazy initialisation must not be recorded.
        side = torch.cuda.Stream(lr.device)  # type: ignore[no-untyped-call]  # not in torch's stubs
        side.wait_stream(torch.cuda.current_stream(lr.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_RUNS):
                self._network(static, parts)
        torch.cuda.current_stream(lr.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = self._network(static, parts)
        return _Recorded(graph, static, output)


def upload(host: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to `device`; on CUDA asynchronously, through pinned memory."""
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def download(tensors: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Start copying tensors to the host; returns a function that waits for them.

    On CUDA the copy goes to pinned memory on a separate stream, concurrent with the next
    computation. On other devices there is nothing to wait for.
    """
    device = tensors[0].device
    if device.type != "cuda":
        return lambda: [tensor.cpu() for tensor in tensors]
    side = _copy_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    copies = []
    with torch.cuda.stream(side):
        for tensor in tensors:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copies.append(copy.copy_(tensor, non_blocking=True))
            tensor.record_stream(side)  # keeps its memory from being reused before then
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # not in torch's stubs
        done.record(side)

    def wait() -> list[Tensor]:
        done.synchronize()
        return copies

    return wait


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # not in torch's stubs
