"""Benchmark of the engine's network on one device, compared to plain implementations.

The `service` rows of the table are what the engine runs: one tile of that size from host memory and
back, as integers, blended and rounded. The other rows leave these steps out. The last two columns
are the speed relative to the first two rows.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deploy.bench.timing import Figures, machine, time_interleaved, verdict, wait
from model.blocks import conv3x3, fold_tails
from model.checkpoint import SHIPPED, load_checkpoint
from model.esrgan import ESRGAN
from model.gdsr import GDSR, OUTPUTS, PARTS, PRESETS, GDSRConfig, Output
from model.inference.forward import Forward, Precision, prepare

_SIDES = {"cpu": (160,), "cuda": (128, 512)}
_SEED = 0
_WIDTH = 140
_STACK_LENGTH = 10
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_COUNTED_SIDE = 16


def bench_engine(
    *,
    device_name: str,
    presets: Sequence[str] | None,
    sides: Sequence[int] | None,
    precisions: Sequence[Precision],
    rounds: int,
) -> dict[str, Any]:
    """Milliseconds, FLOP/s and ratios of every preset, output and precision, by tile side.

    Defaults: a GPU if there is one, every preset, sides that suit the device, the precision that
    the engine would choose.

    Raises:
        RuntimeError: the device cannot be used.
        ValueError: there is no such preset.
    """
    device = torch.device(device_name or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    presets = presets or list(PRESETS)
    sides = sides or _SIDES[device.type]
    if unknown := set(presets) - set(PRESETS):
        raise ValueError(f"presets are {', '.join(PRESETS)}; got {', '.join(sorted(unknown))}")
    torch.manual_seed(_SEED)
    console = Console(width=_WIDTH)
    figures: dict[str, Any] = {"machine": machine(), "device": str(device), "runs": []}
    console.print(figures["machine"])
    for side in sides:
        for preset in track(presets, f"{side}x{side}", console=Console(stderr=True)):
            table, run = _compare(device, preset, side, precisions, rounds)
            figures["runs"].append(run)
            console.print(table)
    return figures


def _compare(
    device: torch.device, preset: str, side: int, precisions: Sequence[Precision], rounds: int
) -> tuple[Table, dict[str, Any]]:
    generator = _generator(preset)
    prepared = partial(prepare, generator, device=device, tile=side)
    forwards = [prepared(precision=precision) for precision in (precisions or (None,))]
    if device.type == "cpu":
        others = [prepared(precision=one.precision, backend="openvino") for one in forwards]
        forwards += [other for other in others if other.backend == "openvino"]
    half = torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, forwards[0].precision)
    plain = partial(eager, device=device, side=side)
    stack, stack_flop = convolution_stack(device=device, dtype=dtype, side=side)
    product, product_flop = matrix_product(device=device, dtype=dtype)
    everything, fused = PlainGDSR(preset, OUTPUTS), PlainGDSR(preset, ("fused",))
    functions: dict[str, Callable[[], object]] = {
        "reference, NCHW float32, three outputs": plain(
            everything, dtype=torch.float32, channels_last=False
        ),
        f"eager NCHW {_name(half)}, fused": plain(fused, dtype=half, channels_last=False),
        f"ESRGAN of 23 RRDB, NCHW {_name(half)}": plain(ESRGAN(), dtype=half, channels_last=False),
        f"ESRGAN of 23 RRDB, channels-last {_name(dtype)}": plain(
            ESRGAN(), dtype=dtype, channels_last=True
        ),
        "matrix product": product,
        "64 -> 64 convolutions": stack,
    }
    flop = {"matrix product": product_flop, "64 -> 64 convolutions": stack_flop}
    for output in ("psnr", "fused") if device.type == "cpu" else ():
        name = f"channels-last autocast bfloat16, {output}"
        functions[name] = autocast(preset, output, device=device, side=side)
        if by_onnx := onnx_runtime(preset, output, side=side):
            functions[f"ONNX Runtime float32, {output}"] = by_onnx
    for forward in forwards:
        how = forward.precision + (", OpenVINO" if forward.backend == "openvino" else "")
        for output in OUTPUTS:
            name = f"service: {output}, {how}"
            functions[name] = _one_tile(forward, output, side)
            per_pixel = flop_per_pixel(PRESETS[preset], output, folded=device.type == "cpu")
            flop[name] = per_pixel * side**2
        name = f"service: fused, {how}, consistent"
        functions[name] = _one_tile(forward, "fused", side, consistent=True)
    seconds = time_interleaved(functions, rounds=rounds)
    return _report(device, preset, side, seconds, flop)


def _generator(preset: str) -> GDSR:
    """A generator with the shipped weights, if any: the engine's precision depends on them."""
    shipped = SHIPPED / f"{preset}.safetensors"
    return load_checkpoint(shipped).generator if shipped.exists() else GDSR(PRESETS[preset])


def _one_tile(
    forward: Forward, output: str, side: int, *, consistent: bool = False
) -> Callable[[], object]:
    tiles = np.random.default_rng(_SEED).integers(256, size=(1, side, side, 3), dtype=np.uint8)
    weights = np.array([[[part == output for part in PARTS]]], dtype=np.float32)  # (1, 1, 4)
    return lambda: forward(tiles, weights, consistent=consistent)


def _report(
    device: torch.device,
    preset: str,
    side: int,
    seconds: dict[str, Figures],
    flop: dict[str, float],
) -> tuple[Table, dict[str, Any]]:
    """The table, and the contents of the JSON file."""
    reference = next(name for name in seconds if name.startswith("reference"))
    eager_fused = next(name for name in seconds if name.startswith("eager"))
    ceiling = seconds["matrix product"]
    stack = seconds["64 -> 64 convolutions"]
    table = Table(
        "", "ms (min / median / max)", "TFLOP/s", "of matmul", "of convs", "reference", "eager",
        title=f"{preset}, {side}x{side} to {4 * side}x{4 * side}, on {device}",
    )  # fmt: skip
    rows: dict[str, Any] = {}
    for name, measured in seconds.items():
        row: dict[str, Any] = {"seconds": measured.as_json()}
        cells = [measured.scaled(1000).shown(), "", "", ""]
        if name in flop:
            speed = flop[name] / measured.median
            of_product = (ceiling / measured).scaled(flop[name] / flop["matrix product"])
            of_stack = (stack / measured).scaled(flop[name] / flop["64 -> 64 convolutions"])
            row |= {"flop_per_second": speed, "of_convolutions": of_stack.as_json()}
            row["of_matrix_product"] = of_product.as_json()
            cells[1:] = [
                f"{speed / 1e12:.2f}", f"{of_product.median:.0%}", f"{of_stack.median:.0%}",
            ]  # fmt: skip
        for against in (reference, eager_fused) if name.startswith("service") else ():
            ratio = seconds[against] / measured
            cells.append(verdict(ratio))
            row[f"against {against}"] = ratio.as_json()
        table.add_row(name, *cells)
        rows[name] = row
    return table, {"preset": preset, "side": side, "contestants": rows}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class PlainGDSR(nn.Module):
    """GDSR as in the reference: no clamping and no conversion to bytes."""

    def __init__(self, preset: str, outputs: tuple[Output, ...]) -> None:
        super().__init__()
        self.generator = GDSR(PRESETS[preset])
        self.outputs = outputs

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 4H, 4W): the last of the outputs; the others are computed too."""
        images = self.generator(lr, self.outputs)
        last: Tensor = getattr(images, self.outputs[-1])
        return last


def eager(
    network: nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype,
    side: int,
    channels_last: bool,
    channels: int = 3,
) -> Callable[[], object]:
    """A function that runs one picture of `side` x `side` pixels and waits for the device."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.eval().to(device=device, dtype=dtype)
    network = network.to(memory_format=layout)  # type: ignore[call-overload]  # not in torch's stubs
    lr = torch.rand(1, channels, side, side, device=device, dtype=dtype)
    lr = lr.contiguous(memory_format=layout)

    def call() -> None:
        with torch.inference_mode():
            network(lr)
        wait(device)

    return call


def autocast(
    preset: str, output: Output, *, device: torch.device, side: int
) -> Callable[[], object]:
    """As `eager`, channels-last with folded tails, in bfloat16 by torch's autocast."""
    network = PlainGDSR(preset, (output,))
    fold_tails(network)
    run = eager(network, device=device, dtype=torch.float32, side=side, channels_last=True)

    def call() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            run()

    return call


def onnx_runtime(preset: str, output: Output, *, side: int) -> Callable[[], object] | None:
    """As `eager`, in float32 on the CPU by ONNX Runtime; None if it or `onnx` is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return None
    import onnxruntime

    network = PlainGDSR(preset, (output,)).eval()
    fold_tails(network)
    lr = torch.rand(1, 3, side, side)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = f"{folder}/network.onnx"
        torch.onnx.export(network, (lr,), path, dynamo=False)  # the newer exporter needs more
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: lr.numpy()})


def convolution_stack(
    *, device: torch.device, dtype: torch.dtype, side: int
) -> tuple[Callable[[], object], float]:
    """Ten 3x3 convolutions of 64 to 64 features with activations, and their FLOP."""
    layers = [
        layer
        for _ in range(_STACK_LENGTH)
        for layer in (conv3x3(64, 64), nn.LeakyReLU(0.2, inplace=True))
    ]
    run = eager(
        nn.Sequential(*layers),
        device=device, dtype=dtype, side=side, channels_last=True, channels=64,
    )  # fmt: skip
    return run, 2.0 * 9 * 64 * 64 * _STACK_LENGTH * side**2


def matrix_product(
    *, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], object], float]:
    """A large square matrix product, the peak of the device, and its FLOP."""
    side = _MATRIX_SIDE[device.type]
    first, second = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))

    def call() -> None:
        torch.mm(first, second)
        wait(device)

    return call, 2.0 * side**3


def flop_per_pixel(config: GDSRConfig, output: Output, *, folded: bool) -> float:
    """FLOP per input pixel of one output, two for each multiplication and addition.

    `folded`: count the work after each upsampling of the tails is folded into one convolution.
    """
    with torch.device("meta"):
        generator = GDSR(config)
        if folded:
            fold_tails(generator)
        lr = torch.empty(1, 3, _COUNTED_SIDE, _COUNTED_SIDE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(lr, (output,))
    return float(counter.get_total_flops()) / _COUNTED_SIDE**2
