"""The network in OpenVINO, an optional second library for CPUs.

The graph is built here from the weights of a generator, operation by operation: OpenVINO's own
converter would trace the network for seconds. Nothing is written to a disk, and its telemetry is
never loaded. One model is compiled for each set of parts, for tiles of every size.

Shapes: N batch, H x W low-resolution pixels.
"""

import functools
import importlib.util
import sys
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.blocks import NEGATIVE_SLOPE, RESIDUAL_SCALE
from model.gdsr import GDSR, PARTS, GDSROutput, Part

#: OpenVINO's names of the precisions in which it computes.
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def is_installed() -> bool:
    """Whether the package of OpenVINO is installed, which is the extra `openvino`."""
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
    build = _Builder(library.opset13)
    return library.Model(build.parts(generator, lr, parts), [lr])


class _Builder:
    """Translates the modules of a generator into nodes of a graph, following their `forward`."""

    def __init__(self, operations: Any) -> None:
        self._op = operations

    def parts(self, generator: GDSR, lr: Any, parts: Sequence[Part]) -> list[Any]:
        op, found = self._op, {}
        shared = self._trunk(generator.shared, self._conv(generator.first, lr))
        guide = self._trunk(generator.guide, shared)
        if "psnr" in parts or "fused" in parts:
            feat_lf = self._branch(generator.lf, guide)
        if "gan" in parts or "fused" in parts:
            guided = op.concat([guide, self._trunk(generator.hf_extract, shared)], 1)
            feat_hf = self._branch(generator.hf, self._conv(generator.hf_merge, guided))
        if "fused" in parts or "mask" in parts:
            mask = op.sigmoid(self._branch(generator.mask, shared))
        if "psnr" in parts:
            found["psnr"] = self._conv(generator.lf_to_rgb, feat_lf)
        if "gan" in parts:
            found["gan"] = self._conv(generator.hf_to_rgb, feat_hf)
        if "fused" in parts:
            features = op.add(feat_lf, op.multiply(op.subtract(feat_hf, feat_lf), mask))
            found["fused"] = self._conv(generator.fused_to_rgb, features)
        if "mask" in parts:
            found["mask"] = op.reduce_mean(mask, np.array([1]), keep_dims=True)
        return [found[part] for part in parts]

    # Children of modules have no type of their own, hence Any.

    def _branch(self, branch: Any, x: Any) -> Any:
        tail = branch.tail
        enlarged = self._conv(tail.lr, self._trunk(branch.trunk, x))
        for step in (tail.up1, tail.up2):
            enlarged = self._activated(self._transposed(step.conv, enlarged))
        return self._activated(self._conv(tail.hr, enlarged))

    def _trunk(self, trunk: Any, x: Any) -> Any:
        refined = x
        for rrdb in trunk.blocks:
            inner = refined
            for rdb in rrdb.blocks:
                inner = self._rdb(rdb, inner)
            scaled = self._op.multiply(inner, np.float32(RESIDUAL_SCALE))
            refined = self._op.add(refined, scaled)
        return self._op.add(x, refined)

    def _rdb(self, block: Any, x: Any) -> Any:
        seen = x
        for conv in block.grow:
            seen = self._op.concat([seen, self._activated(self._conv(conv, seen))], 1)
        return self._op.add(x, self._conv(block.merge, seen, scale=RESIDUAL_SCALE))

    def _conv(self, conv: nn.Conv2d, x: Any, *, scale: float = 1.0) -> Any:
        weight = (conv.weight * scale).contiguous().numpy()
        sums = self._op.convolution(x, weight, [1, 1], [1, 1], [1, 1], [1, 1])
        return self._op.add(sums, _bias(conv, scale))

    def _transposed(self, conv: nn.ConvTranspose2d, x: Any) -> Any:
        """Transposed convolution of 4x4 with stride 2, as in `FoldedEnlarge`."""
        sums = self._op.convolution_backprop_data(
            x, conv.weight.contiguous().numpy(), [2, 2],
            pads_begin=[1, 1], pads_end=[1, 1], dilations=[1, 1],
        )  # fmt: skip
        return self._op.add(sums, _bias(conv))

    def _activated(self, x: Any) -> Any:
        return self._op.prelu(x, np.array([NEGATIVE_SLOPE], np.float32))


def _bias(conv: nn.Conv2d | nn.ConvTranspose2d, scale: float = 1.0) -> NDArray[np.float32]:
    if conv.bias is None:
        return np.zeros((1, conv.out_channels, 1, 1), np.float32)
    return (conv.bias * scale).view(1, -1, 1, 1).numpy()
