"""Photographs, decoded once and kept as bytes: on the device, in memory or in a mapped file.

Shapes: K photographs, P pixels in total.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from model.gdsr import SCALE
from model.process import available_cpus, available_memory
from model.trainer.config import Data
from model.trainer.errors import TrainingError, writing

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for a broken picture."""
_TURNS: Mapping[object, int] = {2: 4, 3: 6, 4: 2, 5: 1, 6: 3, 7: 7, 8: 5}
"""EXIF orientation -> the turn (of `turned`) that puts a picture upright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photographs:
    """The photographs of a folder with their pixels."""

    pixels: Tensor
    """(P, 3) bytes, photograph after photograph, row after row."""
    starts: Tensor
    """(K,) start of each photograph in `pixels`."""
    heights: Tensor
    widths: Tensor
    names: tuple[str, ...]
    broken: tuple[Path, ...]
    small: tuple[Path, ...]
    """Skipped: a side is shorter than a patch."""

    def to(self, device: torch.device) -> "Photographs":
        names = ("pixels", "starts", "heights", "widths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def find_photographs(folder: Path) -> list[Path]:
    """All pictures under `folder`, in a fixed order.

    Raises:
        TrainingError: there is no such folder.
    """
    if not folder.is_dir():
        raise TrainingError(f"no folder {folder}")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def decode(path: Path) -> NDArray[np.uint8]:
    """The upright picture as RGB: (H, W, 3).

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: the file is broken, or has
            levels without a known range.
    """
    with Image.open(path) as image:
        turn = _turn(image)
        if image.mode in ("I", "F"):
            raise ValueError("32-bit levels have no known range")
        if image.mode.startswith("I;16"):  # Pillow would clip grey levels to 255
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return turned(np.repeat(grey[..., None], 3, axis=2), turn)
        return turned(np.asarray(image.convert("RGB")), turn)


def turned(picture: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of the eight flips and quarter turns, 0 to 7, of (H, W, 3)."""
    picture = picture[::-1] if turn & 2 else picture
    picture = picture[:, ::-1] if turn & 4 else picture
    return picture.transpose(1, 0, 2) if turn & 1 else picture


def _turn(image: Image.Image) -> int:
    """The turn for the EXIF orientation, which has to be asked for before the pixels are loaded.

    Pillow itself turns a TIFF. A PNG without EXIF before its pixels would be decoded to look.
    """
    if "exif" in image.info:
        with suppress(*UNREADABLE, struct.error):  # damaged EXIF does not make a picture useless
            return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation), 0)
    return 0


def usable_pictures(
    paths: Iterable[Path], *, folder: Path, side: int
) -> Iterator[NDArray[np.uint8]]:
    """Decode the pictures with at least `side` pixels a side, (H, W, 3) each; skip all others.

    Raises:
        TrainingError: no picture of `folder` is usable.
    """
    broken, small, found = [], 0, False
    for path in paths:
        try:
            picture = decode(path)
        except UNREADABLE:
            broken.append(path)
            continue
        if min(picture.shape[:2]) < side:
            small += 1
        else:
            found = True
            yield picture
    if not found:
        raise no_photograph(folder, broken=broken, small=small, side=side)


def is_usable(path: Path, *, side: int) -> bool:
    """True if a picture is not broken and has at least `side` pixels a side."""
    try:
        return bool(min(decode(path).shape[:2]) >= side)
    except UNREADABLE:
        return False


def no_photograph(folder: Path, *, broken: Sequence[Path], small: int, side: int) -> TrainingError:
    """The error that a folder has no usable picture."""
    reasons = [f"{len(broken)} broken, {broken[0].name} first"] if broken else []
    if small:
        reasons.append(f"{small} smaller than {side}x{side}")
    reason = ", ".join(reasons) or "it has no pictures"
    return TrainingError(f"no photograph to use in {folder} ({reason})")


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, from its header.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: the file is broken.
    """
    with Image.open(path) as image:
        width, height = image.size
        return (height, width) if _turn(image) & 1 else (width, height)


def read_photographs(
    paths: Sequence[Path], *, folder: Path, side: int, file: Path | None = None
) -> Photographs:
    """Decode all of `paths` with at least `side` pixels a side, to memory or to `file`.

    Broken and small pictures are skipped.

    Raises:
        TrainingError: no picture is left, or there is no space for `file`.
    """
    readable = _sizes(paths)
    broken = set(paths) - readable.keys()
    small = [path for path, size in readable.items() if min(size) < side]
    sizes = {path: size for path, size in readable.items() if min(size) >= side}
    ends = np.cumsum([height * width for height, width in sizes.values()], dtype=np.int64)
    pixels = _allocated(int(ends[-1]) if sizes else 0, file)
    flat = pixels.numpy()

    def fill(path: Path, end: int) -> None:
        height, width = sizes[path]
        try:
            flat[end - height * width : end] = decode(path).reshape(height * width, 3)
        except UNREADABLE:
            broken.add(path)

    with ThreadPoolExecutor(available_cpus()) as pool:
        for _ in pool.map(fill, sizes, ends.tolist()):
            pass
    whole = [
        (path, end - sizes[path][0] * sizes[path][1], *sizes[path])
        for path, end in zip(sizes, ends.tolist(), strict=True)
        if path not in broken
    ]
    if not whole:
        raise no_photograph(folder, broken=sorted(broken), small=len(small), side=side)
    kept, starts, heights, widths = zip(*whole, strict=True)
    return Photographs(
        pixels=pixels,
        starts=torch.tensor(starts),
        heights=torch.tensor(heights),
        widths=torch.tensor(widths),
        names=tuple(str(path.relative_to(folder)) for path in kept),
        broken=tuple(sorted(broken)),
        small=tuple(small),
    )


def keep_photographs(
    paths: list[Path], data: Data, *, device: torch.device, file: Path
) -> tuple[Photographs, Data]:
    """Decode the photographs to the location in `data.keep`, or with `auto` to the first that fits.

    Returns `data` with the chosen location.

    Raises:
        TrainingError: no photograph is usable, or there is no space for `file`.
    """
    keep = data.keep if data.keep != "auto" else _place(paths, device)
    photographs = read_photographs(
        paths,
        folder=Path(data.hr_dir),
        side=SCALE * data.patch,
        file=file if keep == "file" else None,
    )
    if keep == "device":
        photographs = photographs.to(device)
    return photographs, replace(data, keep=keep)


def _place(paths: Sequence[Path], device: torch.device) -> Literal["device", "host", "file"]:
    """The first location with room for the decoded pictures besides other uses."""
    size = 3 * sum(height * width for height, width in _sizes(paths).values())
    if size > 0.4 * available_memory():
        return "file"
    if device.type == "cuda" and size > 0.4 * torch.cuda.mem_get_info(device)[0]:
        return "host"
    return "device"


def _sizes(paths: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Height and width of each picture whose header can be read."""
    sizes = {}
    for path in paths:
        with suppress(*UNREADABLE):
            width, height = size_of(path)
            sizes[path] = height, width
    return sizes


def _allocated(pixels: int, file: Path | None) -> Tensor:
    if file is None or not pixels:
        return torch.empty((pixels, 3), dtype=torch.uint8)
    try:
        with writing(file), file.open("wb") as opened:
            # On a full disk a write to the mapping would kill the process.
            os.posix_fallocate(opened.fileno(), 0, 3 * pixels)
        mapped = torch.from_file(str(file), shared=True, size=3 * pixels, dtype=torch.uint8)
    finally:
        file.unlink(missing_ok=True)  # the mapping is freed when the process ends, however it ends
    return mapped.view(pixels, 3)
