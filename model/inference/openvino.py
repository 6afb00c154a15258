"""The network in OpenVINO, an optional second library for CPUs.

The graph is built here by the generator's own `forward`: OpenVINO's converter would trace the
network for seconds. Nothing is written to a disk, and its telemetry is
never loaded. One model is compiled for each set of parts, for tiles of every size.

Shapes: N batch, H x W low-resolution pixels.
"""

import functools
import importlib.util
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.gdsr import GDSR, PARTS, GDSROutput, Part

#: OpenVINO's names of the precisions in which it computes.
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def is_installed() -> bool:
    """True if OpenVINO is installed, by the extra `openvino`."""
    return importlib.util.find_spec("openvino") is not None


class OpenVINOGDSR:
    """A generator in float32 on the CPU, with folded tails, computed by OpenVINO in `precision`."""

    def __init__(self, generator: GDSR, *, precision: str) -> None:
        """`precision` is float32 or bfloat16."""
        self._generator = generator
        self._options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # decoders and other engines use these cores too
        }
        self._compiled: dict[frozenset[Part], Any] = {}
        self._last: frozenset[Part] = frozenset()

    def __call__(self, lr: Tensor, parts: Collection[Part]) -> GDSROutput:
        """See `GDSR.forward`; compiled when a set of parts is first seen."""
        wanted = [part for part in PARTS if part in parts]
        key = frozenset(wanted)
        if key not in self._compiled:
            graph = _graph(self._generator, wanted)
            self._compiled[key] = _core().compile_model(graph, "CPU", self._options)
        if key != self._last:
            self.release()  # the features of one model may take gigabytes
            self._last = key
        try:
            found = self._compiled[key]([lr.float().contiguous().numpy()])
        except RuntimeError:
            del self._compiled[key]  # half of its nodes have the shapes of the tile that failed
            raise
        images = (torch.from_numpy(found[index]) for index in range(len(wanted)))
        none: dict[Part, Tensor | None] = dict.fromkeys(PARTS)
        return GDSROutput(**{**none, **dict(zip(wanted, images, strict=True))})

    def release(self) -> None:
        if self._last in self._compiled:
            self._compiled[self._last].release_memory()


def _library() -> Any:
    """The package, without its telemetry, which would report each import to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # makes its import fail
    import openvino

    return openvino


@functools.cache
def _core() -> Any:
    """The library's core: one for the process, which lives as long.

    Each core sets an alternate signal stack of its own, and puts back that of the core before it
    when it goes. So of two cores the later one would leave the freed stack of the earlier one, and
    the next signal would end the process.
    """
    return _library().Core()


def _graph(generator: GDSR, parts: Sequence[Part]) -> Any:
    """A model from (N, 3, H, W) to the parts in this order; see `GDSR.forward`."""
    library = _library()
    lr = library.opset13.parameter([-1, 3, -1, -1], np.float32)
    images = generator(_Node(lr), parts)
    return library.Model([getattr(images, part).node for part in parts], [lr])


class _Node:
    """A node of a graph in place of a tensor: torch's functions add further nodes to the graph.

    So the `forward` of a generator builds it. These are all functions that a network with folded
    tails calls.
    """

    def __init__(self, node: Any) -> None:
        self.node = node

    def __add__(self, other: "_Node") -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]  # dispatched below

    def mean(self, *, dim: int, keepdim: bool, dtype: torch.dtype) -> "_Node":  # noqa: ARG002
        axes = np.array([dim])
        return _Node(_library().opset13.reduce_mean(self.node, axes, keep_dims=keepdim))

    @classmethod
    def __torch_function__(
        cls, function: Any, _: Any, given: Sequence[Any], named: Mapping[str, Any] | None = None
    ) -> "_Node":
        op, options = _library().opset13, named or {}
        x, *others = (one.node if isinstance(one, _Node) else one for one in given)
        match function:
            case torch.add:
                term = others[0]
                if "alpha" in options:
                    term = op.multiply(term, np.float32(options["alpha"]))
                return cls(op.add(x, term))
            case torch.cat:
                return cls(op.concat([part.node for part in x], options["dim"]))
            case torch.lerp:
                end, weight = others
                return cls(op.add(x, op.multiply(op.subtract(end, x), weight)))
            case torch.sigmoid:
                return cls(op.sigmoid(x))
            case F.leaky_relu_:
                return cls(op.prelu(x, np.array(others, np.float32)))
            case F.conv2d | F.conv_transpose2d:
                weight, bias, stride, pads = others[:4]
                kernel = weight.contiguous().numpy()
                if function == F.conv2d:
                    sums = op.convolution(x, kernel, stride, pads, pads, [1, 1])
                else:
                    sums = op.convolution_backprop_data(
                        x, kernel, stride, pads_begin=pads, pads_end=pads, dilations=[1, 1]
                    )
                return cls(op.add(sums, bias.view(1, -1, 1, 1).numpy()))
        raise NotImplementedError(f"{function} has no translation for OpenVINO")
