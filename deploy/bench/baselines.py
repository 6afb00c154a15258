"""Baselines for the engine: other ways to run GDSR, and upper bounds of the device.

The upper bounds are a large matrix product, and a stack of the convolutions that the network
consists of.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.blocks import conv3x3, fold_tails
from model.gdsr import GDSR, PRESETS, GDSRConfig, Output

_STACK_LENGTH = 10
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_COUNTED_SIDE = 16


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


def wait(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
