"""How well ways to enlarge do on a folder of photographs.

Every picture is made smaller by the protocol's bicubic, and larger again by the network in float32,
whole, with the mirrored context around it that the service gives a picture too. What comes out is
clamped, blended where the slider stands between two outputs, and rounded to bytes, and the bytes
are judged.

Shapes: H x W low-resolution pixels of RGB.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.gdsr import GDSR, SCALE
from model.losses import back_projected
from model.perceptual import Metric
from model.resize import bicubic_down, bicubic_up
from model.score import CONTEXT
from model.trainer.pareto import PLACES, name_of
from model.trainer.photographs import UNREADABLE, decode, find_photographs

Method = Callable[[Tensor], Mapping[str, Tensor]]
"""Ways to enlarge, by name: bytes of (3, H, W) -> bytes of (3, 4H, 4W) each."""

BICUBIC = "bicubic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of a folder; the data set is called like it."""

    name: str
    paths: tuple[Path, ...]
    sides: tuple[int, int]
    """The shortest of the shorter sides and of the longer ones, cropped to multiples of 4."""

    def suit(self, metric: Metric) -> bool:
        """Whether the metric can judge every one of them."""
        return all(side >= least for side, least in zip(self.sides, metric.smallest, strict=True))

    def left_out(self, metrics: Iterable[Metric]) -> list[str]:
        """Of the others, why they are left out."""
        return [
            f"{metric.title} is left out on {self.name}: "
            f"it needs {metric.smallest[0]}x{metric.smallest[1]} pixels"
            for metric in metrics
            if not self.suit(metric)
        ]

    def read(self, device: torch.device) -> Iterator[Tensor]:
        """Bytes of (3, 4H, 4W), one after the other.

        Raises:
            ValueError: one is broken.
        """
        for path in self.paths:
            try:
                image = torch.from_numpy(decode(path).copy()).permute(2, 0, 1)
            except UNREADABLE as error:
                raise ValueError(f"{path} is broken: {error}") from None
            height, width = (_cropped(side) for side in image.shape[1:])
            yield image[:, :height, :width].to(device)


def find_pictures(folder: Path) -> Pictures:
    """All pictures under a folder.

    Raises:
        ValueError: there is none, or one is broken.
        TrainingFault: there is no such folder.
    """
    paths = tuple(find_photographs(folder))
    if not paths:
        raise ValueError(f"no picture in {folder}")
    sizes = []
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.append(sorted(map(_cropped, image.size)))
        except UNREADABLE as error:
            raise ValueError(f"{path} is broken: {error}") from None
    shorter, longer = (min(sides) for sides in zip(*sizes, strict=True))
    return Pictures(name=folder.resolve().name, paths=paths, sides=(shorter, longer))


def bicubic(lr: Tensor) -> dict[str, Tensor]:
    """What all began with, as a `Method`."""
    return {BICUBIC: bicubic_up(lr)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slider:
    """A generator as a `Method`: what it gives at some places on the slider."""

    generator: GDSR
    trade_offs: Sequence[float]
    back_projection: bool = False
    """Add to each output what it lacks to shrink to the picture that it was made from."""

    def __call__(self, lr: Tensor) -> dict[str, Tensor]:
        """The names are those of `name_of`.

        Raises:
            ValueError: an output is not finite.
        """
        around = ((0, 0), (CONTEXT, CONTEXT), (CONTEXT, CONTEXT))
        padded = torch.from_numpy(np.pad(lr.cpu().numpy(), around, mode="symmetric")).to(lr.device)
        batch = padded[None].float().div(255)  # (1, 3, H + 2 * 16, W + 2 * 16)
        images = self.generator(batch.contiguous(memory_format=torch.channels_last))
        edge = SCALE * CONTEXT
        shown = {}
        for output, place in PLACES.items():
            image: Tensor = getattr(images, output)[..., edge:-edge, edge:-edge]
            if self.back_projection:
                image = back_projected(image, lr[None].float().div(255))
            if not image.isfinite().all():
                raise ValueError(f"the network's output {output} is not finite")
            shown[place] = image[0].clamp(0, 1)  # (3, 4H, 4W)
        return {name_of(place): _levels(_blend(shown, place)) for place in self.trade_offs}


def evaluate(
    method: Method,
    pictures: Iterable[Tensor],
    metrics: Sequence[Metric],
    *,
    jpeg: int | None = None,
) -> dict[str, dict[str, float]]:
    """What each way to enlarge scores on bytes of (3, 4H, 4W): name -> metric -> value.

    With `jpeg`, 1 to 100, the small pictures are compressed with that quality first, by Pillow.
    A value that is not finite, as for equal pictures or for flat ones, is left out.

    Raises:
        ValueError: a picture is too small for a metric, or has a side that is no multiple of 4.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for true in pictures:
        # TF32 would take three decimal digits away from what is said to be float32.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            lr = bicubic_down(true)
            images = method(lr if jpeg is None else _compressed(lr, jpeg))
            stack = torch.stack(tuple(images.values()))  # (N, 3, 4H, 4W)
            for metric in metrics:
                for name, value in zip(images, metric.judge(stack, true), strict=True):
                    values.setdefault(name, {}).setdefault(metric.name, []).append(value)
    return {
        name: {
            metric.name: metric.overall(found[metric.name])
            for metric in metrics
            if all(map(math.isfinite, found[metric.name]))
        }
        for name, found in values.items()
    }


def _blend(shown: Mapping[float, Tensor], trade_off: float) -> Tensor:
    """The two outputs that the slider stands between, mixed in pixel space."""
    left = 0.0 if trade_off < 0.5 else 0.5
    return torch.lerp(shown[left], shown[left + 0.5], 2 * (trade_off - left))


def _compressed(lr: Tensor, quality: int) -> Tensor:
    """After a JPEG file, with the colour subsampling that Pillow has by default."""
    file = io.BytesIO()
    Image.fromarray(lr.permute(1, 2, 0).cpu().numpy()).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        pixels = torch.from_numpy(np.array(opened)).permute(2, 0, 1)
    return pixels.to(lr.device)


def _levels(image: Tensor) -> Tensor:
    return image.mul(255).round().to(torch.uint8)


def _cropped(side: int) -> int:
    return side // SCALE * SCALE
