"""GDSR on GPUs of compute capability 9.0 (H100, H200), with our own convolution kernels.

See `hopper.cu`. The computation is that of `GDSR.forward` in float16, but sums, activations and
residuals stay in float32 until a feature is stored.

Shapes: N images in a batch, H x W pixels of input, F features. Features are stored in planes of 8
with a border of zeros, S times as large as the input: (N, F / 8, S * H + 2, pitch, 8).
"""

import ctypes
import functools
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from model.blocks import RDB, Enlarge, Tail
from model.gdsr import GDSR, GDSRConfig, GDSROutput, Part
from model.inference.nvrtc import load_kernels

_CAPABILITY = (9, 0)

_SOURCE = Path(__file__).with_suffix(".cu")
_OPTIONS = ("--gpu-architecture=sm_90a", "--std=c++20", "-default-device")
_THREADS = 384
_SHARED_BYTES = 232448
_STRIP = 128
_PLANE = 8
_CLEAR = "clear_border"
#: Overhead of a block before its first and after its last row, in rows.
_OVERHEAD_ROWS = 2.0

Epilogue = Literal["ACTIVATE", "PLAIN", "MERGE", "ENLARGE", "FUSE", "TO_RGB"]


def is_supported(device: torch.device, config: GDSRConfig) -> bool:
    """True if the kernels support this device and a network of this size.

    Kernels belong to torch's current device, so no other one is supported.
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    if device.index not in (None, torch.cuda.current_device()):
        return False
    sizes = (config.features, config.growth) in ((64, 32), (32, 16))
    return sizes and torch.cuda.get_device_capability(device) == _CAPABILITY


class Convolution(NamedTuple):
    """The parameters of a convolution in the kernel's layout."""

    kernel: str
    """Name of the kernel in C++."""
    epilogue: Epilogue
    rows: int
    """Kernel size of the convolution."""
    slices: int
    """Groups of outputs, each computed by separate blocks."""
    weights: Tensor
    bias: Tensor


def pack(kernels: Sequence[Tensor], bias: Tensor, epilogue: Epilogue, features: int) -> Convolution:
    """Lay out one kernel for each slice of outputs, (outputs, inputs, rows, 3) each.

    The first `features` inputs come from the first tensor of the kernel, the others from the
    second.
    """
    width, inputs, rows, columns = kernels[0].shape
    stage = 32 if inputs % 32 == 0 else 16
    laid_out = [
        kernel.reshape(width, inputs // stage, stage // _PLANE, _PLANE, rows, columns)
        .permute(1, 5, 2, 4, 0, 3)
        .flatten()
        for kernel in kernels
    ]
    return Convolution(
        kernel=f"convolve<{inputs}, {features}, {width}, {rows}, {epilogue}>",
        epilogue=epilogue,
        rows=rows,
        slices=len(kernels),
        weights=torch.cat(laid_out).half(),
        bias=bias.float(),
    )


def _plain(conv: nn.Conv2d, epilogue: Epilogue, *, features: int, width: int) -> Convolution:
    """A 3x3 convolution in slices of `width` outputs, padded with zeros to whole slices."""
    missing = -conv.out_channels % width
    weight = torch.cat((conv.weight, conv.weight.new_zeros(missing, *conv.weight.shape[1:])))
    bias = _bias(conv)
    bias = torch.cat((bias, bias.new_zeros(missing)))
    return pack(weight.chunk(len(weight) // width), bias, epilogue, features)


def _enlarging(enlarge: Enlarge) -> Convolution:
    """`Enlarge` as 2x2 convolutions, one for each of the four output pixels of an input pixel.

    Rows of the kernel that meet copies of the same pixel are added up beforehand; columns likewise.
    A slice computes two adjacent pixels, of half of the features.
    """
    conv = enlarge.conv
    kernels: list[Tensor] = []
    for weight in _folded(conv.weight, 2):  # the upper pixel and the lower one
        left, right = _folded(weight, 3)
        nothing = torch.zeros_like(left[..., :1])
        left, right = torch.cat((left, nothing), 3), torch.cat((nothing, right), 3)
        kernels += map(torch.cat, zip(left.chunk(2), right.chunk(2), strict=True))
    return pack(kernels, _bias(conv), "ENLARGE", conv.in_channels)


def _bias(conv: nn.Conv2d) -> Tensor:
    return cast("Tensor", conv.bias)  # `conv3x3` always has a bias


def _folded(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The kernels of 2 for both output pixels, from a kernel of 3 along `dim`."""
    first, second, third = weight.unbind(dim)
    return torch.stack((first, second + third), dim), torch.stack((first + second, third), dim)


def packed(generator: GDSR) -> Iterator[tuple[str, Convolution]]:
    """Every convolution but the first, by its name in the generator."""
    features, growth = generator.config.features, generator.config.growth
    plain = functools.partial(_plain, features=features, width=features)
    for name, part in generator.named_modules():
        if isinstance(part, RDB):
            narrow = functools.partial(_plain, features=features, width=growth)
            for k, conv in enumerate(part.grow):
                yield f"{name}.grow.{k}", narrow(cast("nn.Conv2d", conv), "ACTIVATE")
            yield f"{name}.merge", narrow(part.merge, "MERGE")
        elif isinstance(part, Tail):
            yield f"{name}.lr", plain(part.lr, "PLAIN")
            yield f"{name}.up1", _enlarging(cast("Enlarge", part.up1))
            yield f"{name}.up2", _enlarging(cast("Enlarge", part.up2))
            yield f"{name}.hr", plain(part.hr, "FUSE" if name == "mask.tail" else "ACTIVATE")
    yield "hf_merge", plain(generator.hf_merge, "PLAIN")
    for name in ("lf_to_rgb", "hf_to_rgb", "fused_to_rgb"):
        yield name, _plain(getattr(generator, name), "TO_RGB", features=features, width=_PLANE)


def source(config: GDSRConfig) -> str:
    """hopper.cu with the matrix products that a network of this size needs."""
    shapes = {(3, config.growth), (3, config.features), (2, config.features), (3, _PLANE)}
    shapes |= {(1, width) for _, width in shapes}
    products = "\n".join(_product(rows, width) for rows, width in sorted(shapes))
    return _SOURCE.read_text().replace("//PRODUCTS", products)


def _product(rows: int, width: int) -> str:
    """C++ code: adds the product of 64 pixels with `rows` times `width` columns of weights."""
    each = width // 2
    count = rows * each
    sums = [f"d[{i // each}][{i % each}]" for i in range(count)]
    registers = ", ".join(f"%{i}" for i in range(count))
    return f"""
template <> struct Product<{rows}, {width}> {{
    static __device__ __forceinline__ void add(float (&d)[{rows}][{each}], u64 a, u64 b) {{
        asm volatile(
            "{{\\n.reg .pred adds;\\nsetp.ne.b32 adds, 1, 0;\\n"
            "wgmma.mma_async.sync.aligned.m64n{rows * width}k16.f32.f16.f16 "
            "{{{registers}}}, %{count}, %{count + 1}, adds, 1, 1, 0, 0;\\n}}"
            : {", ".join(f'"+f"({one})' for one in sums)} : "l"(a), "l"(b));
    }}
}};"""


class _Layer(ctypes.Structure):
    """`Layer` in hopper.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "grown", "weights", "bias", "out")),
        *((name, ctypes.c_void_p) for name in ("add1", "add2", "add3", "rgb")),
        *((name, ctypes.c_int) for name in ("height", "width", "pitch")),
        *((name, ctypes.c_int) for name in ("x_planes", "grown_planes")),
        *((name, ctypes.c_int) for name in ("out_planes", "out_first", "out_pitch")),
        *((name, ctypes.c_int) for name in ("rows", "blocks_down", "strips", "slices")),
    ]


class Planes(NamedTuple):
    """Features of N images of H x W pixels, with a border of zeros: (N, F / 8, H + 2, pitch, 8)."""

    values: Tensor
    height: int
    width: int


class HopperGDSR:
    """A generator on torch's current device: `GDSR.forward` without gradients, in float16."""

    def __init__(self, generator: GDSR, ready: GDSR, *, folder: Path) -> None:
        """`generator` is in float32 and on the device, and `ready` is the same in float16.

        The first convolution stays in float32, as its error affects everything behind it. Parts
        without a kernel use `ready`. Compiled kernels are cached in `folder`.

        Raises:
            KernelUnavailable: the kernels cannot be compiled or loaded.
        """
        self._ready = ready
        self._first = generator.first
        self._features = generator.config.features
        self._growth = generator.config.growth
        self._processors = torch.cuda.get_device_properties().multi_processor_count
        with torch.no_grad():
            self._convolutions = {
                name: convolution._replace(
                    weights=convolution.weights.cuda(), bias=convolution.bias.cuda()
                )
                for name, convolution in packed(generator)
            }
        names = {convolution.kernel for convolution in self._convolutions.values()}
        self._kernels = load_kernels(
            source(generator.config), [*sorted(names), _CLEAR], options=_OPTIONS,
            threads=_THREADS, shared_bytes=_SHARED_BYTES, folder=folder,
        )  # fmt: skip

    @torch.inference_mode()
    def __call__(self, lr: Tensor, parts: Collection[Part]) -> GDSROutput:
        """See `GDSR.forward`; images are float32.

        Every launch has host overhead: record it as a graph.
        """
        if "mask" in parts:
            return GDSROutput(*self._ready(lr, parts))
        psnr = gan = fused = None
        shared = self._trunk("shared", self._begin(lr))
        guide = self._trunk("guide", shared)
        if "psnr" in parts or "fused" in parts:
            lf = self._tail("lf.tail", self._trunk("lf.trunk", guide))
        if "gan" in parts or "fused" in parts:
            extracted = self._trunk("hf_extract", shared)
            merged = self._convolve("hf_merge", guide, grown=extracted)
            hf = self._tail("hf.tail", self._trunk("hf.trunk", merged))
        if "psnr" in parts:
            psnr = self._to_rgb("lf_to_rgb", lf)
        if "gan" in parts:
            gan = self._to_rgb("hf_to_rgb", hf)
        if "fused" in parts:
            # The last convolution of the mask gives the blend weights of the others.
            mixed = self._tail("mask.tail", self._trunk("mask.trunk", shared), added=(lf, hf))
            fused = self._to_rgb("fused_to_rgb", mixed)
        return GDSROutput(psnr=psnr, gan=gan, fused=fused)

    def _begin(self, lr: Tensor) -> Planes:
        features: Tensor = self._first(lr.float())  # (N, F, H, W)
        n, count, h, w = features.shape
        planes = self._new(n, count, height=h, width=w)
        inside = planes.values[:, :, 1 : h + 1, 1 : w + 1]
        inside.copy_(features.reshape(n, count // _PLANE, _PLANE, h, w).permute(0, 1, 3, 4, 2))
        return planes

    def _trunk(self, name: str, x: Planes) -> Planes:
        """`Trunk`."""
        blocks = sum(
            key.startswith(f"{name}.") and key.endswith(".2.merge") for key in self._convolutions
        )
        grown = self._like(x, 4 * self._growth)
        first, second, begin = self._like(x), self._like(x), x
        ends = self._like(x), self._like(x)
        for i in range(blocks):
            dense = f"{name}.blocks.{i}.blocks"
            last = (x,) if i == blocks - 1 else ()
            end = ends[i % 2]
            self._dense(f"{dense}.0", begin, grown, first)
            self._dense(f"{dense}.1", first, grown, second)
            self._dense(f"{dense}.2", second, grown, end, begin, *last)
            begin = end
        return begin

    def _dense(self, name: str, x: Planes, grown: Planes, out: Planes, *added: Planes) -> None:
        """`RDB`, plus residuals: the input of its RRDB, and of its trunk."""
        for k in range(4):
            at = k * self._growth // _PLANE
            self._convolve(f"{name}.grow.{k}", x, grown=grown, out=grown, first=at)
        self._convolve(f"{name}.merge", x, grown=grown, out=out, added=(x, *added))

    def _tail(self, name: str, x: Planes, added: Sequence[Planes] = ()) -> Planes:
        """`Tail`."""
        for step in ("lr", "up1", "up2"):
            x = self._convolve(f"{name}.{step}", x)
        return self._convolve(f"{name}.hr", x, added=added)

    def _to_rgb(self, name: str, x: Planes) -> Tensor:
        """Convert features to an image, (N, 3, H, W)."""
        image = torch.empty((len(x.values), 3, x.height, x.width), device="cuda")
        self._launch(name, x, rgb=image.data_ptr())
        return image

    def _convolve(
        self,
        name: str,
        x: Planes,
        *,
        grown: Planes | None = None,
        out: Planes | None = None,
        first: int = 0,
        added: Sequence[Planes] = (),
    ) -> Planes:
        """Convolve into planes of `out` from `first` on, or into new ones."""
        if out is None:
            scale = 2 if self._convolutions[name].epilogue == "ENLARGE" else 1
            n = len(x.values)
            out = self._new(n, self._features, height=x.height * scale, width=x.width * scale)
        fields = {f"add{i}": one.values.data_ptr() for i, one in enumerate(added, start=1)}
        if grown is not None:
            fields |= {"grown": grown.values.data_ptr(), "grown_planes": grown.values.shape[1]}
        self._launch(
            name, x, out=out.values.data_ptr(), out_first=first,
            out_planes=out.values.shape[1], out_pitch=out.values.shape[3], **fields,
        )  # fmt: skip
        return out

    def _launch(self, name: str, x: Planes, **fields: int) -> None:
        """Queue a convolution of `x`; `fields` of the layer say what else it reads and writes."""
        convolution = self._convolutions[name]
        strips = math.ceil(x.width / _STRIP)
        side_by_side = len(x.values) * strips * convolution.slices
        rows = self._rows(x.height, side_by_side, convolution.rows)
        blocks_down = math.ceil(x.height / rows)
        layer = _Layer(
            x=x.values.data_ptr(), x_planes=x.values.shape[1],
            height=x.height, width=x.width, pitch=x.values.shape[3],
            weights=convolution.weights.data_ptr(), bias=convolution.bias.data_ptr(),
            rows=rows, blocks_down=blocks_down, strips=strips, slices=convolution.slices, **fields,
        )  # fmt: skip
        self._kernels[convolution.kernel].launch(side_by_side * blocks_down, layer)

    def _like(self, x: Planes, features: int | None = None) -> Planes:
        count = features or self._features
        return self._new(len(x.values), count, height=x.height, width=x.width)

    def _new(self, images: int, features: int, *, height: int, width: int) -> Planes:
        """Allocate features with a border of zeros."""
        count = features // _PLANE
        pitch = math.ceil(width / _STRIP) * _STRIP + 2  # whole strips, and the border
        shape = (images, count, height + 2, pitch, _PLANE)
        values = torch.empty(shape, dtype=torch.float16, device="cuda")
        border = _Layer(out=values.data_ptr(), height=height, width=width, out_pitch=pitch)
        self._kernels[_CLEAR].launch(images * count, border)
        return Planes(values, height, width)

    def _rows(self, height: int, side_by_side: int, kernel_rows: int) -> int:
        """Rows per block, chosen to balance the load of the multiprocessors."""

        def seconds(rows: int) -> float:
            blocks = side_by_side * math.ceil(height / rows)
            return math.ceil(blocks / self._processors) * (rows + kernel_rows / 2 + _OVERHEAD_ROWS)

        return min(range(1, height + 1), key=seconds)
