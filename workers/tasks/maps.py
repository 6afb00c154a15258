"""Blending by a map: each pixel has a trade-off of its own.

All arithmetic is in integers, so that a web page can compute the same pixels; docs/http.md
specifies it.
"""

from dataclasses import replace
from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from workers.contract.errors import ImageRejected, MapInvalid
from workers.contract.queue.jobs import Region
from workers.pictures.formats.png import checked_png
from workers.pictures.picture import Picture, Plane
from workers.tasks.branches import mixed

#: A map is interpolated in 256ths of a pixel each way, so a level of 255 becomes this.
_FULL = 255 * 256 * 256
_BAND_PIXELS = 2**16  # fits the CPU cache

Levels = NDArray[np.uint8]


def read_map(png: bytes) -> Levels:
    """The levels (h, w) of a map whose header was checked, as stored: neither a colour space nor an
    orientation is applied.

    Raises:
        MapInvalid: it is damaged.
    """
    try:
        return imagecodecs.png_decode(checked_png(png).data)
    except (ImageRejected, RuntimeError) as failure:
        raise MapInvalid(f"is damaged ({failure})") from failure


def blend_by_map(
    outputs: list[Picture], levels: Levels, *, width: int, height: int, region: Region | None
) -> Picture:
    """Blend psnr, fused and gan, or the same `region` of them, by a map of the whole result of
    `width` x `height` pixels.

    A level v is the trade-off v / 255: a map of one level gives what that trade-off gives.
    """
    first = outputs[0]
    colours = [picture.colour[..., : 1 if first.grey else 3] for picture in outputs]
    x, y, across, down = region or Region(0, 0, width, height)
    columns = _samples(width, levels.shape[1], slice(x, x + across))
    result = np.empty_like(colours[0], order="C")
    step = max(1, _BAND_PIXELS // across)
    for top in range(0, down, step):
        band = slice(top, min(top + step, down))
        rows = _samples(height, levels.shape[0], slice(y + band.start, y + band.stop))
        positions = _positions(levels, columns, rows)
        result[band] = _blend([colour[band] for colour in colours], positions)
    return replace(first, colour=np.broadcast_to(result, first.colour.shape))


class _Samples(NamedTuple):
    """For each pixel of a line: its two neighbouring samples, and its place between, in 256ths."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: NDArray[np.uint32]


def _samples(size: int, samples: int, pixels: slice) -> _Samples:
    """Neighbouring samples of some of `size` pixels; centres are aligned, and ends clamped."""
    place = (2 * np.arange(size, dtype=np.int64)[pixels] + 1) * samples - size
    place = place.clip(0, 2 * size * (samples - 1))
    first = place // (2 * size)
    share = (256 * (place - 2 * size * first) + size) // (2 * size)
    return _Samples(first, np.minimum(first + 1, samples - 1), share.astype(np.uint32))


def _positions(levels: Levels, columns: _Samples, rows: _Samples) -> NDArray[np.uint32]:
    """The map at these pixels, from 0 to `_FULL`."""
    begin = rows.first[0]
    needed = levels[begin : rows.second[-1] + 1].astype(np.uint32)
    wide = needed[:, columns.first] * (256 - columns.share)
    wide += needed[:, columns.second] * columns.share
    share = rows.share[:, None]
    positions: NDArray[np.uint32] = wide[rows.first - begin] * (256 - share)
    positions += wide[rows.second - begin] * share
    return positions


def _blend(outputs: list[Plane], positions: NDArray[np.uint32]) -> Plane:
    """Blend each pixel from psnr and fused, or from fused and gan."""
    bits = 8 * outputs[0].itemsize
    full = 2**bits
    # Twice the slider's position in 256ths or 65536ths, rounded half up.
    if bits == 8:
        twice = (positions + _FULL // 1024) // (_FULL // 512)
    else:
        twice = (2 * positions + 127) // 255
    crisp = twice > full
    share = (twice - full * crisp).astype(np.uint32)[..., None]
    crisp = crisp[..., None]
    psnr, fused, gan = outputs
    return mixed(np.where(crisp, fused, psnr), np.where(crisp, gan, fused), share)
