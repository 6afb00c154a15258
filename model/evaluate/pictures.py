"""Data sets for evaluation: pairs of a true picture and its small copy.

For a folder of photographs the small copies are made by the protocol's bicubic; paired folders
already contain them.

Shapes: H x W low-resolution pixels of RGB.
"""

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.gdsr import SCALE
from model.metrics.character import SMALLEST_FOR_MESH
from model.metrics.perceptual import Metric
from model.resize import bicubic_down
from model.trainer.data.photographs import UNREADABLE, decode, find_photographs, size_of
from model.trainer.degradations.degradations import LIGHT_ALONE, shrink
from model.trainer.validation import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """A data set."""

    name: str
    """Name of the folder; for pairs that of the small pictures, and of their common parent."""
    paths: tuple[Path, ...]
    sides: tuple[int, int]
    """The minimum of the shorter sides and of the longer sides, cropped to multiples of 4."""
    small: tuple[Path, ...] = ()
    """The partners of `paths`; empty if the small pictures are made."""

    def are_large_enough(self, smallest: tuple[int, int]) -> bool:
        """True if all pictures have at least this size: shorter side, longer side."""
        return all(side >= least for side, least in zip(self.sides, smallest, strict=True))

    def not_measurable(self, metrics: Iterable[Metric]) -> list[str]:
        """A line for each metric, the mesh included, that cannot be measured."""
        needs = {metric.title: metric.smallest for metric in metrics}
        needs["the mesh"] = (SMALLEST_FOR_MESH,) * 2
        return [
            f"{title} is left out on {self.name}: it needs {smallest[0]}x{smallest[1]} pixels"
            for title, smallest in needs.items()
            if not self.are_large_enough(smallest)
        ]

    def read(
        self, device: torch.device, *, jpeg: int | None = None, light: bool = False
    ) -> Iterator[Pair]:
        """Yield the pairs; `jpeg` and `light` apply to the small pictures that are made.

        Raises:
            ValueError: a picture is broken.
        """
        for index, path in enumerate(self.paths):
            hr = _read(path).to(device)
            height, width = (_cropped(side) for side in hr.shape[1:])
            hr = hr[:, :height, :width]
            if self.small:
                lr = _read(self.small[index]).to(device)
            else:
                lr = downscaled(hr, jpeg=jpeg, light=index if light else None)
            yield Pair(lr=lr, hr=hr)


def find_pictures(folder: Path) -> Pictures:
    """All pictures under a folder.

    Raises:
        ValueError: there is no picture, or one is broken or smaller than 4x4 pixels.
        TrainingError: there is no such folder.
    """
    paths = _found(folder)
    return Pictures(name=folder.resolve().name, paths=paths, sides=_shortest(paths))


def find_pairs(small: Path, large: Path) -> Pictures:
    """All pictures under two folders, paired by stem.

    Raises:
        ValueError: there is none, one is broken, has no partner, shares its stem with another, or
            is not exactly 4 times as large as its partner.
        TrainingError: there is no such folder.
    """
    ours, theirs = (_by_stem(folder) for folder in (small, large))
    for here, there, folder in ((ours, theirs, large), (theirs, ours, small)):
        for stem in here.keys() - there.keys():
            raise ValueError(f"{here[stem]} has no partner: there is no {stem} in {folder}")
    for stem, path in ours.items():
        width, height = _size(path)
        true = _size(theirs[stem])
        if true != (SCALE * width, SCALE * height):
            raise ValueError(
                f"{theirs[stem]} has {true[0]}x{true[1]} pixels; it must have "
                f"{SCALE * width}x{SCALE * height}, {SCALE} times the {width}x{height} of {path}"
            )
    common = Path(os.path.commonpath((small.resolve(), large.resolve())))
    paths = tuple(theirs[stem] for stem in ours)
    return Pictures(
        name=f"{common.name}/{small.resolve().relative_to(common)}",
        paths=paths,
        sides=_shortest(paths),
        small=tuple(ours.values()),
    )


def downscaled(hr: Tensor, *, jpeg: int | None = None, light: int | None = None) -> Tensor:
    """Downscale a true picture, (3, 4H, 4W) -> (3, H, W) bytes.

    With `jpeg`, 1 to 100, Pillow compresses the small picture with that quality. With a seed
    `light`, the trainer's light recipe makes it instead.

    Raises:
        ValueError: a side is not a multiple of 4.
    """
    if light is not None:
        random = torch.Generator(hr.device).manual_seed(light)
        return shrink(hr[None], LIGHT_ALONE, random)[0]
    lr = bicubic_down(hr)
    return lr if jpeg is None else _compressed(lr, jpeg)


def _compressed(lr: Tensor, quality: int) -> Tensor:
    """Apply a JPEG round trip with Pillow's default chroma subsampling."""
    file = io.BytesIO()
    Image.fromarray(lr.permute(1, 2, 0).cpu().numpy()).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        pixels = torch.from_numpy(np.array(opened)).permute(2, 0, 1)
    return pixels.to(lr.device)


def _found(folder: Path) -> tuple[Path, ...]:
    paths = tuple(find_photographs(folder))
    if not paths:
        raise ValueError(f"no picture in {folder}")
    return paths


def _by_stem(folder: Path) -> dict[str, Path]:
    paths = _found(folder)
    stem, count = Counter(path.stem for path in paths).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{count} pictures in {folder} are called {stem}; pairs are matched by stem"
        )
    return {path.stem: path for path in paths}


def _shortest(paths: Iterable[Path]) -> tuple[int, int]:
    sides = []
    for path in paths:
        width, height = _size(path)
        if min(width, height) < SCALE:
            raise ValueError(
                f"{path} has {width}x{height} pixels; at least {SCALE}x{SCALE} are needed"
            )
        sides.append(sorted(map(_cropped, (width, height))))
    shorter, longer = (min(lengths) for lengths in zip(*sides, strict=True))
    return shorter, longer


def _size(path: Path) -> tuple[int, int]:
    try:
        return size_of(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} is broken: {error}") from None


def _read(path: Path) -> Tensor:
    try:
        return torch.from_numpy(decode(path).copy()).permute(2, 0, 1)
    except UNREADABLE as error:
        raise ValueError(f"{path} is broken: {error}") from None


def _cropped(side: int) -> int:
    return side // SCALE * SCALE
