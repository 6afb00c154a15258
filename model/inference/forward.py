"""A generator made ready on one device: tiles of whole numbers in, such tiles out.

Weights are converted once, to the precision that a self-test on this very device allows, and laid
out channels-last, which alone makes a CPU more than twice as fast. Whatever the precision, the
outputs are blended, clamped and rounded in float32, and a tile that comes out as NaN or infinity
is computed again in float32 before anyone is told. Tiles of 16 bits are always computed in float32,
which alone holds them.

Shapes: N tiles in a batch, T x T pixels in a tile, R results for each.
"""

import copy
import functools
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.blocks import RRDB, Tail
from model.gdsr import GDSR, OUTPUTS, PARTS, Output, Part
from model.inference import hopper, winograd
from model.inference.cuda_graphs import Graphs, Network, compile_blocks, download, upload
from model.inference.nvrtc import KernelUnavailable
from model.process import cache_folder
from model.resize import bicubic_down, bicubic_up

__all__ = [
    "OUTPUTS", "PARTS", "Forward", "NotFinite", "Output", "Precision", "measure", "prepare",
]  # fmt: skip

Precision = Literal["float32", "bfloat16", "float16"]

_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SELF_TEST_SIDE = 32
_SELF_TEST_DECIBELS = 50.0


Tiles = NDArray[np.unsignedinteger]

log = logging.getLogger(__name__)


class NotFinite(RuntimeError):
    """The network gave NaN or infinity."""


class Blends(NamedTuple):
    """R times blended images, (N, 3, 4T, 4T) in [0, 1], or masks, (N, 1, 4T, 4T) in [0, 1], and
    which tiles are right: (N,), of bool.
    """

    images: list[Tensor]
    finite: Tensor


class Forward:
    """A generator made ready on `device`, in `precision`."""

    def __init__(self, generator: GDSR, *, device: torch.device, precision: Precision) -> None:
        self.device = device
        self.precision: Precision = precision
        self._source = generator
        self._ready = self._converted(precision)
        self._exact = self._ready if precision == "float32" else None
        self._call: Network = self._ready
        self.compiled = False
        """Whether the network is compiled, one way or the other."""
        self.kernels = False
        """Whether it runs through kernels of our own."""

    def __call__(
        self, tiles: Tiles, weights: NDArray[np.float32], *, consistent: bool = False
    ) -> Tiles:
        """Super-resolve tiles: (N, T, T, 3) -> (N, R, 4T, 4T, 3), uint8 or uint16 as given.

        `weights`, (N, R, 4), say for each result of each tile how much of each of `PARTS` it gets.
        A row adds up to 1; the mask, which comes out as a grey image, is not blended with others.
        What is needed is computed once for all results, and nothing else is. `consistent` images
        are corrected until the evaluation protocol's bicubic makes the tile of them again, nearly
        (see `_corrected`). Outputs are clamped before they are blended, so that a blend of stored
        outputs is the same. Running out of memory is left to the caller.

        Raises:
            NotFinite: a tile is NaN or infinite, in float32 too.
        """
        return self.start(tiles, weights, consistent=consistent)()

    def start(
        self, tiles: Tiles, weights: NDArray[np.float32], *, consistent: bool = False
    ) -> Callable[[], Tiles]:
        """Begin with a batch as above; the function returned waits for the results.

        On CUDA this comes back as soon as the work is queued, so that the host can prepare one
        batch and hand on another while the GPU computes. Elsewhere all is computed here.
        """
        fetch = self._begin(self._network(tiles), tiles, weights, consistent=consistent)

        def finish() -> Tiles:
            finite, results = fetch()
            broken = ~finite
            if broken.any():
                again = self._begin(
                    self._in_float32(), tiles[broken], weights[broken], consistent=consistent
                )
                finite, right = again()
                if not finite.all():
                    raise NotFinite("the network's output is not finite, in float32 either")
                results[broken] = right
            return results

        return finish

    @torch.inference_mode()
    def blend(self, tiles: Tiles, weights: NDArray[np.float32]) -> Blends:
        """The same before anything is computed again or rounded."""
        return self._blend(self._network(tiles), tiles, weights)

    def accelerate(self, *, tile: int, cache: Path) -> str | None:
        """CUDA only: compile, and replay batches; None, or why the network stays uncompiled.

        Where the GPU has them, through kernels of our own (`model.inference.hopper`), else block by
        block.
        What is compiled is kept in `cache`, and where `prepare_process` says.
        """
        if self.precision == "float16" and hopper.is_supported(self.device, self._source.config):
            try:
                exact = self._converted("float32")
                self._call = Graphs(hopper.HopperGDSR(exact, self._ready, folder=cache))
                self.compiled = self.kernels = True
            except KernelUnavailable as failure:
                log.warning("the blocks are compiled instead of our own kernels: %s", failure)
            else:
                return None
        for part in list(self._ready.modules()):
            if isinstance(part, RRDB):
                part.widen()
        self._ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        reason = compile_blocks(self._ready, self._features(tile))
        self._call = Graphs(self._ready)
        self.compiled = reason is None
        return reason

    def undo_acceleration(self) -> None:
        """Take back `accelerate`."""
        if not self.kernels:  # the blocks themselves were changed
            exact = self._exact is self._ready
            self._ready = self._converted(self.precision)
            self._exact = self._ready if exact else self._exact
        self._call = self._ready
        self.compiled = self.kernels = False

    def release(self) -> None:
        """Give back the memory that recorded batches hold."""
        if isinstance(self._call, Graphs):
            self._call.forget()

    @torch.inference_mode()
    def _begin(
        self, network: Network, tiles: Tiles, weights: NDArray[np.float32], *, consistent: bool
    ) -> Callable[[], tuple[NDArray[np.bool_], Tiles]]:
        """Queue everything up to the copy to the host; which tiles are right, and the results."""
        blends = self._blend(network, tiles, weights)
        kind = tiles.dtype.type
        samples = []
        for images in blends.images:
            is_mask = images.shape[1] == 1
            right = _corrected(images, tiles) if consistent and not is_mask else images
            samples.append(_samples(right, kind))
        wait = download([blends.finite, *samples])

        def fetch() -> tuple[NDArray[np.bool_], Tiles]:
            finite, *parts = (tensor.numpy() for tensor in wait())
            found = [part.astype(kind, copy=False) for part in parts]
            return finite, found[0][:, None] if len(found) == 1 else np.stack(found, axis=1)

        return fetch

    def _network(self, tiles: Tiles) -> Network:
        return self._in_float32() if tiles.dtype == np.uint16 else self._call

    def _in_float32(self) -> GDSR:
        if self._exact is None:
            self._exact = self._converted("float32")
        return self._exact

    def _blend(self, network: Network, tiles: Tiles, weights: NDArray[np.float32]) -> Blends:
        parts = [part for at, part in enumerate(PARTS) if weights[..., at].any()]
        # The first convolution takes 0 to 255.
        levels = tiles.astype(np.float32) / 257 if tiles.dtype == np.uint16 else tiles
        # torch warns of memory that it must not write to, so such a batch is copied.
        writable = torch.from_numpy(np.require(levels, requirements=["C", "W"]))
        # The channel lies innermost, so a mere change of view makes it channels-last.
        lr = upload(writable, self.device).permute(0, 3, 1, 2)  # (N, 3, T, T)
        # TF32 would take three decimal digits away from what is asked for as float32.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            output = network(lr.to(self._dtype(network)), parts)
        images = {part: getattr(output, part).float() for part in parts}
        return _blended(images, weights)

    def _dtype(self, network: Network) -> torch.dtype:
        return torch.float32 if network is self._exact else _DTYPES[self.precision]

    def _features(self, tile: int) -> Tensor:
        """What one tile is inside the network, of zeros: (1, C, T, T)."""
        shape = (1, self._source.config.features, tile, tile)
        features = torch.zeros(shape, dtype=_DTYPES[self.precision], device=self.device)
        return features.contiguous(memory_format=torch.channels_last)

    def _converted(self, precision: Precision) -> GDSR:
        generator = copy.deepcopy(self._source).eval().requires_grad_(requires_grad=False)
        # Bytes go in as they are: below 256 every precision holds them exactly, while 1/255 of
        # them would be off by up to 0.4 levels in bfloat16.
        generator.first.weight /= 255
        if self.device.type == "cpu":  # where it was measured; cuDNN may see it otherwise
            for part in list(generator.modules()):
                if isinstance(part, Tail):
                    part.fold()
            if precision == "float32" and winograd.is_supported(generator.config):
                winograd.accelerate(generator)
        generator = generator.to(device=self.device, dtype=_DTYPES[precision])
        laid_out: GDSR = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        return laid_out


def prepare(
    generator: GDSR,
    *,
    device: torch.device | str,
    precision: Precision | None,
    tile: int,
    cache: Path | None = None,
) -> Forward:
    """Make `generator` ready on `device` for tiles of `tile` x `tile` pixels, and warm it up.

    Without a `precision` the fastest one is taken that this device does right on a picture made
    here. On a CPU that has instructions for it that is bfloat16, if it is finite, at least 50 dB
    away from float32 and faster. On CUDA it is float16, if it is finite and within one grey level
    of float32, or bfloat16, if that is finite and at least 50 dB away. Else it is float32. On CUDA
    the network is compiled too, where that can be done; `cache` keeps what was.

    Raises:
        NotFinite: the output on that picture is NaN or infinite in the precision that was asked
            for or, if none was, in float32.
    """
    device = torch.device(device)
    if precision is None:
        forward = _fastest_right(generator, device)
    else:
        forward = Forward(generator, device=device, precision=precision)
    true = _tried(forward)
    if not true.finite.all():
        raise NotFinite(f"the network's output is not finite in {forward.precision} on {device}")
    if device.type == "cuda":
        if reason := forward.accelerate(tile=tile, cache=cache or cache_folder()):
            log.warning("the network runs uncompiled on %s, and slower: %s", device, reason)
        if not _is_right(_tried(forward), true, "bfloat16"):
            log.error("compiled for %s the network is wrong; it runs uncompiled", device)
            forward.undo_acceleration()
    forward(_picture(tile), _only("fused"))
    return forward


def measure(forward: Forward, *, tile: int) -> dict[str, float]:
    """Input pixels a second for each of `OUTPUTS`, from one run of one tile each."""
    picture = _picture(tile)
    speed: dict[str, float] = {}
    for output in OUTPUTS:
        start = time.perf_counter()
        forward(picture, _only(output))  # ends on the host: nothing is left to wait for
        speed[output] = tile**2 / (time.perf_counter() - start)
    return speed


def _fastest_right(generator: GDSR, device: torch.device) -> Forward:
    """The generator in the half precision that suits the device, if that passes, or in float32."""
    exact = Forward(generator, device=device, precision="float32")
    if device.type == "cuda":
        candidates: tuple[Precision, ...] = ("float16", "bfloat16")
    else:
        candidates = ("bfloat16",) if _cpu_has_bfloat16() else ()
    true = _tried(exact)
    for precision in candidates:
        quick = Forward(generator, device=device, precision=precision)
        if _is_right(_tried(quick), true, precision) and (
            device.type == "cuda" or _is_faster(quick, exact)
        ):
            return quick
    return exact


def _is_right(found: Blends, true: Blends, precision: Precision) -> bool:
    """Whether every output is finite, and as near to float32 as this precision can be."""
    if not found.finite.all():
        return False
    error = _levels(found.images[0]) - _levels(true.images[0])  # (3, 3, H, W)
    if precision == "float16":
        return bool(error.abs().max() <= 1)
    worst = float(error.square().mean(dim=(1, 2, 3)).max())
    return worst <= 255**2 / 10 ** (_SELF_TEST_DECIBELS / 10)


def _is_faster(quick: Forward, exact: Forward) -> bool:
    # A neighbour that takes the processors for a moment must not decide for hours: the best of
    # three against a single one, which is the slower by far where the instructions are there.
    return min(_seconds_to_try(quick) for _ in range(3)) < _seconds_to_try(exact)


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; emulated, that is several times slower."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _tried(forward: Forward) -> Blends:
    """Every output of the self-test's picture, in the order of `OUTPUTS`: one of (3, 3, H, W)."""
    picture = _picture(_SELF_TEST_SIDE).repeat(len(OUTPUTS), axis=0)
    return forward.blend(picture, np.eye(len(OUTPUTS), len(PARTS), dtype=np.float32)[:, None])


def _seconds_to_try(forward: Forward) -> float:
    start = time.perf_counter()
    _tried(forward)
    return time.perf_counter() - start


def _only(output: Output) -> NDArray[np.float32]:
    """The weights of one tile that gets this output alone: (1, 1, 4)."""
    return np.array([[[output == part for part in PARTS]]], dtype=np.float32)


def _picture(side: int) -> NDArray[np.uint8]:
    """One tile, (1, side, side, 3), with what photographs have: shades, edges, texture, noise."""
    y, x = np.mgrid[0:side, 0:side] / side
    rings = np.sin(40 * (x**2 + y**2))
    disc = np.hypot(x - 0.6, y - 0.4) < 0.25
    shades = np.stack((x, y, 1 - (x + y) / 2), axis=-1)
    picture = np.where(disc[..., None], 1 - shades, shades + 0.2 * rings[..., None])
    noise = np.random.default_rng(0).normal(scale=0.03, size=picture.shape)
    return np.asarray(((picture + noise) * 255).clip(0, 255), dtype=np.uint8)[None]


def _blended(images: Mapping[Part, Tensor], weights: NDArray[np.float32]) -> Blends:
    """Clamp every image and add them up, in float32, once for each result."""
    device = next(iter(images.values())).device
    finite = torch.ones(len(weights), dtype=torch.bool, device=device)
    clamped: dict[Part, Tensor] = {}
    for part, image in images.items():
        # A sum finds NaN and infinity as surely as a look at every value, and much quicker. What
        # a tile does not want may be either.
        unwanted = ~weights[..., PARTS.index(part)].any(axis=1)
        finite &= image.sum(dim=(1, 2, 3)).isfinite() | upload(torch.from_numpy(unwanted), device)
        clamped[part] = image.clamp(0, 1)
    return Blends([_one_blend(clamped, row) for row in weights.swapaxes(0, 1)], finite)


def _one_blend(images: Mapping[Part, Tensor], weights: NDArray[np.float32]) -> Tensor:
    """The sum of images by their weights, (N, 4)."""
    shares = {part: weights[:, PARTS.index(part)] for part in images}
    wanted = [part for part, share in shares.items() if share.any()]
    if len(wanted) == 1:
        return images[wanted[0]]
    terms = []
    for part in wanted:
        host = torch.from_numpy(np.ascontiguousarray(shares[part]))
        weight = upload(host, images[part].device).view(-1, 1, 1, 1)
        terms.append(torch.where(weight == 0, 0.0, images[part] * weight))
    return functools.reduce(torch.add, terms)


def _corrected(images: Tensor, tiles: Tiles) -> Tensor:
    """One step of back-projection (Irani and Peleg, 1991): sr + up(lr - down(sr)), in [0, 1].

    It reaches 4 input pixels, which the halo of a tile covers beside the network's own reach.
    """
    full = np.iinfo(tiles.dtype).max
    lr = upload(torch.from_numpy(tiles.astype(np.float32) / full), images.device)
    lr = lr.permute(0, 3, 1, 2)
    return (images + bicubic_up(lr - bicubic_down(images))).clamp_(0, 1)


def _levels(images: Tensor) -> Tensor:
    """[0, 1] -> whole numbers of 0 to 255."""
    return images.mul(255).round_()


def _samples(images: Tensor, kind: type[np.unsignedinteger]) -> Tensor:
    """Images or masks in [0, 1], (N, 1 or 3, H, W) -> (N, H, W, 3), where they are."""
    deep = kind is np.uint16  # which torch does not have all of
    levels = images.mul(65535).round_() if deep else _levels(images).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()
