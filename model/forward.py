"""A checkpoint made ready on one device: tiles of bytes in, tiles of bytes out.

Weights are converted once, to the precision that a self-test on this very device allows, and laid
out channels-last, which is what makes a CPU two to four times faster. Whatever the precision, the
outputs are blended, clamped and rounded in float32, and a tile that comes out as NaN or infinity
is computed again in float32 before anyone is told.

Shapes: N tiles in a batch, T x T pixels in a tile.
"""

import copy
import math
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.blocks import Tail
from model.gdsr import GDSR, OUTPUTS, GDSROutput, Output

__all__ = ["OUTPUTS", "Forward", "NotFinite", "Output", "Precision", "measure", "prepare"]

Precision = Literal["float32", "bfloat16", "float16"]

_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SELF_TEST_SIDE = 64
_SELF_TEST_DECIBELS = 50.0


class NotFinite(RuntimeError):
    """The network gave NaN or infinity, and in float32 too."""


class Forward:
    """A generator made ready on `device`, in `precision`."""

    def __init__(self, generator: GDSR, *, device: torch.device, precision: Precision) -> None:
        self.device = device
        self.precision: Precision = precision
        self._source = generator
        self._ready = self._convert(precision)
        self._exact: GDSR | None = self._ready if precision == "float32" else None

    def __call__(self, tiles: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Super-resolve a batch of tiles: (N, T, T, 3) -> (N, 4T, 4T, 3).

        `weights`, (N, 3), say for each tile how much of each of `OUTPUTS` it gets; a row adds up
        to 1. An output that no tile wants is not computed.

        Raises:
            NotFinite: a tile is NaN or infinite, in float32 too.
        """
        with torch.inference_mode():
            wanted = torch.from_numpy(weights)
            images = self._run(self._ready, tiles, wanted)
            broken = ~torch.isfinite(images).flatten(1).all(dim=1).cpu()
            if broken.any():
                images[broken.to(self.device)] = self._again(tiles, wanted, broken)
            return _to_bytes(images)

    def _again(self, tiles: NDArray[np.uint8], weights: Tensor, broken: Tensor) -> Tensor:
        """Compute the broken tiles once more, in float32."""
        if self._exact is None:
            self._exact = self._convert("float32")
        images = self._run(self._exact, tiles[broken.numpy()], weights[broken])
        if not torch.isfinite(images).all():
            raise NotFinite("the network's output is not finite, in float32 either")
        return images

    def _convert(self, precision: Precision) -> GDSR:
        generator = copy.deepcopy(self._source).eval().requires_grad_(requires_grad=False)
        if self.device.type == "cpu":
            for part in list(generator.modules()):
                if isinstance(part, Tail):
                    part.fold()
        generator = generator.to(device=self.device, dtype=_DTYPES[precision])
        converted: GDSR = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        return converted

    def _run(self, generator: GDSR, tiles: NDArray[np.uint8], weights: Tensor) -> Tensor:
        """(N, T, T, 3) bytes -> the blend, (N, 3, 4T, 4T) in float32, not clamped."""
        outputs = tuple(
            output for output, column in zip(OUTPUTS, weights.T, strict=True) if column.any()
        )
        # Bytes lie as N, H, W, channel: seen as (N, 3, H, W) that is channels-last already.
        lr = torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2)  # (N, 3, T, T)
        lr = lr.to(generator.first.weight.dtype).div_(255)
        images: GDSROutput = generator(lr, outputs)
        return _blend(images, outputs, weights.to(self.device))


def _blend(images: GDSROutput, outputs: Sequence[Output], weights: Tensor) -> Tensor:
    """The weighted sum of the outputs, in float32: (N, 3, 4T, 4T)."""
    blend: Tensor | None = None
    for output in outputs:
        image: Tensor = getattr(images, output).float()
        if len(outputs) == 1:
            return image
        weight = weights[:, OUTPUTS.index(output)].view(-1, 1, 1, 1)
        # Not just a product: an output that a tile does not want may be NaN there.
        share = torch.where(weight > 0, image * weight, 0.0)
        blend = share if blend is None else blend.add_(share)
    if blend is None:
        raise ValueError("weights are all zero")
    return blend


def _to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) -> (N, H, W, 3), rounded to the nearest level."""
    levels = images.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def prepare(
    generator: GDSR, *, device: torch.device | str, precision: Precision | None, tile: int
) -> Forward:
    """Make `generator` ready on `device` for tiles of `tile` x `tile` pixels, and warm it up.

    Without a `precision` the fastest one is taken that this device does right on a picture made
    here: bfloat16 on a CPU that has instructions for it, if it is finite, at least 50 dB away from
    float32 and faster; float16 on CUDA, if it is finite and within one grey level of float32; else
    float32.

    Raises:
        NotFinite: the network's output on the picture is not finite in the given precision, or
            without a given one in float32.
    """
    device = torch.device(device)
    chosen = precision or _choose(generator, device)
    forward = Forward(generator, device=device, precision=chosen)
    picture = _picture(_SELF_TEST_SIDE)
    with torch.inference_mode():
        if not torch.isfinite(forward._run(forward._ready, picture, torch.ones(1, 3))).all():
            raise NotFinite(f"the network's output is not finite in {chosen} on {device}")
    forward(_picture(tile), _only("fused"))
    return forward


def measure(forward: Forward, *, tile: int) -> dict[str, float]:
    """Input pixels a second for each of `OUTPUTS`, from one run of one tile each."""
    picture = _picture(tile)
    return {output: tile * tile / _seconds(forward, picture, _only(output)) for output in OUTPUTS}


def _choose(generator: GDSR, device: torch.device) -> Precision:
    """The precision that passes the self-test."""
    fast: Precision
    if device.type == "cuda":
        fast = "float16"
    elif device.type == "cpu" and _cpu_has_bfloat16():
        fast = "bfloat16"
    else:
        return "float32"
    picture = _picture(_SELF_TEST_SIDE)
    exact = Forward(generator, device=device, precision="float32")
    quick = Forward(generator, device=device, precision=fast)
    for output in OUTPUTS:
        weights = _only(output)
        with torch.inference_mode():
            image = quick._run(quick._ready, picture, torch.from_numpy(weights))
        if not torch.isfinite(image).all():
            return "float32"
        error = quick(picture, weights).astype(np.float32) - exact(picture, weights)
        if device.type == "cuda":
            right = float(np.abs(error).max()) <= 1
        else:
            right = _decibels(error) >= _SELF_TEST_DECIBELS
        if not right:
            return "float32"
    if device.type == "cpu":
        weights = _only("fused")
        if _seconds(quick, picture, weights) >= _seconds(exact, picture, weights):
            return "float32"
    return fast


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; emulated, it is several times slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _seconds(forward: Forward, picture: NDArray[np.uint8], weights: NDArray[np.float32]) -> float:
    start = time.perf_counter()
    forward(picture, weights)  # ends on the host: there is nothing left to wait for
    return time.perf_counter() - start


def _decibels(error: NDArray[np.float32]) -> float:
    mean = float(np.mean(np.square(error)))
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def _only(output: Output) -> NDArray[np.float32]:
    """The weights of one tile that gets this output alone."""
    return np.array([[float(output == other) for other in OUTPUTS]], dtype=np.float32)


def _picture(side: int) -> NDArray[np.uint8]:
    """One tile, (1, side, side, 3), with what photographs have: shades, edges, texture, noise."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    across, down = x / side, y / side
    rings = np.sin(40 * np.square(across) + 40 * np.square(down))
    disc = np.hypot(across - 0.6, down - 0.4) < 0.25
    noise = np.random.default_rng(0).normal(scale=0.03, size=(side, side, 3))
    shades = np.stack((across, down, 1 - 0.5 * (across + down)), axis=-1)
    picture = np.where(disc[..., None], 1 - shades, shades + 0.2 * rings[..., None]) + noise
    return np.asarray(picture.clip(0, 1) * 255, dtype=np.uint8)[None]
