"""Our own GPU kernels match the network; a CPU checks how their weights are packed."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.blocks import Enlarge
from model.checkpoint import SHIPPED, load_checkpoint
from model.gdsr import GDSR, OUTPUTS, PARTS, PRESETS, Output
from model.inference import hopper
from model.inference.forward import Forward, prepare

SAMPLE = Path(__file__).parents[3] / "deploy" / "sample" / "kitten.jpg"

gpu = pytest.mark.skipif(
    not hopper.is_supported(
        torch.device("cuda" if torch.cuda.is_available() else "cpu"), PRESETS["base"]
    ),
    reason="no GPU of compute capability 9.0",
)


@pytest.fixture(params=["base", "lite"])
def generator(request: pytest.FixtureRequest) -> GDSR:
    checkpoint = load_checkpoint(SHIPPED / f"{request.param}.safetensors")
    return checkpoint.generator.eval().requires_grad_(requires_grad=False)


def _as_the_kernel_reads(convolution: hopper.Convolution, x: Tensor) -> list[Tensor]:
    """Compute the output slices of x (C, H, W), without bias; read weights as the kernel does."""
    found = re.fullmatch(r"convolve<(\d+), \d+, (\d+), (\d), (\w+)>", convolution.kernel)
    assert found
    inputs, width, rows = map(int, found.groups()[:3])
    stage = 32 if inputs % 32 == 0 else 16
    _, height, across = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    slices = []
    weights = convolution.weights.float().view(
        convolution.slices, inputs // stage, 3, stage // 8, rows, width, 8
    )
    for number, slice_weights in enumerate(weights):
        below = number // 2 if found[4] == "ENLARGE" else 0
        out = torch.zeros(width, height, across)
        for r in range(height + rows - 1):
            for s in range(rows):
                if not 0 <= r - s < height:
                    continue
                for piece in range(inputs // stage):
                    for column in range(3):
                        kernel = slice_weights[piece, column, :, s]  # (planes, width, 8)
                        pixels = padded[piece * stage : (piece + 1) * stage, r + below]
                        out[:, r - s] += (
                            kernel.permute(1, 0, 2).reshape(width, stage)
                            @ (pixels[:, column : column + across])
                        )
        slices.append(out)
    return slices


def test_packed_weights_read_by_the_kernel_are_the_convolution(generator: GDSR) -> None:
    conv = generator.shared.blocks[0].blocks[0].grow[1]
    x = torch.randn(conv.in_channels, 5, 7)
    packed = dict(hopper.packed(generator))["shared.blocks.0.blocks.0.grow.1"]

    found = torch.cat(_as_the_kernel_reads(packed, x)) + packed.bias[:, None, None]

    torch.testing.assert_close(found, conv(x[None])[0], rtol=0, atol=2e-3)


def test_packed_enlargement_makes_four_pixels_of_one(generator: GDSR) -> None:
    enlarge = generator.lf.tail.up1
    assert isinstance(enlarge, Enlarge)
    features = enlarge.conv.in_channels
    x = torch.randn(features, 5, 7)
    packed = dict(hopper.packed(generator))["lf.tail.up1"]

    larger = torch.zeros(features, 10, 14)
    for number, found in enumerate(_as_the_kernel_reads(packed, x)):
        half = slice((number % 2) * features // 2, (number % 2 + 1) * features // 2)
        larger[half, number // 2 :: 2, 0::2], larger[half, number // 2 :: 2, 1::2] = found.chunk(2)

    found = F.leaky_relu(larger + packed.bias[:, None, None], 0.2)
    torch.testing.assert_close(found, enlarge(x[None])[0], rtol=0, atol=2e-3)


def test_every_convolution_but_the_first_is_packed(generator: GDSR) -> None:
    convolutions = {n for n, part in generator.named_modules() if isinstance(part, torch.nn.Conv2d)}

    packed = {name for name, _ in hopper.packed(generator)}

    assert packed | {"first"} == {name.removesuffix(".conv") for name in convolutions}


def test_a_cpu_has_no_such_kernels() -> None:
    assert not hopper.is_supported(torch.device("cpu"), PRESETS["base"])


def _pictures() -> Iterator[tuple[Tensor, str]]:
    for shape in ((1, 3, 96, 128), (2, 3, 130, 257), (3, 3, 7, 5)):
        yield F.avg_pool2d(torch.rand(shape), 3, 1, 1), "x".join(map(str, shape))


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("outputs", [("psnr",), ("gan",), ("fused",), OUTPUTS])
def test_the_kernels_give_what_the_network_gives(
    generator: GDSR, outputs: tuple[Output, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    ready = copy.deepcopy(generator).cuda().half()
    kernels = hopper.HopperGDSR(generator.cuda(), ready, folder=tmp_path)
    for picture, shape in _pictures():
        lr = picture.cuda().half()
        with torch.inference_mode():
            true, found = ready(lr, outputs), kernels(lr, outputs)
        for output in outputs:
            error = getattr(found, output).clamp(0, 1) - getattr(true, output).clamp(0, 1).float()
            assert error.square().mean().sqrt() * 255 < 0.2, (output, shape)


@pytest.mark.gpu
@gpu
def test_float16_on_such_a_gpu_is_within_a_level_of_float32(
    generator: GDSR, tmp_path: Path
) -> None:
    quick = prepare(generator, device="cuda", precision=None, tile=192, cache=tmp_path)
    exact = Forward(generator, device=torch.device("cuda"), precision="float32")
    assert (quick.precision, quick.kernels) == ("float16", True)
    with Image.open(SAMPLE) as opened:
        tile = np.asarray(opened.convert("RGB"))[None, :192, :192]
    for output in OUTPUTS:
        weights = np.array([[[output == part for part in PARTS]]], dtype=np.float32)
        error = quick(tile, weights).astype(int) - exact(tile, weights)
        assert abs(error).max() <= 1, output
        assert 10 * np.log10(255**2 / np.square(error).mean()) >= 60, output
