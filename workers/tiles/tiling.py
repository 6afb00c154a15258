"""Cuts a picture into tiles of one shape, and stitches the upscaled tiles.

A network pads its borders with zeros, so a tile is read with `halo` pixels of context on each side,
which are discarded; beyond the picture the context is mirrored. Neighbours overlap by a band of
`feather` pixels, which is blended linearly. The tiles split the picture evenly, and the excess of a
fixed shape is used for more context.

Invariants: every pixel is kept exactly once; equal pixels blend to themselves, so white stays
white; the same tiles always give the same picture; memory beyond the result is one band across it.

Notation: H x W picture, T tile side, F width of a band in result pixels, C channels.
Samples are uint8 or uint16. All lengths are input pixels unless stated otherwise.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.contract.images.options import SCALE

Pixels = NDArray[np.unsignedinteger]


class Span(NamedTuple):
    """A tile along one axis: it keeps [start, stop) and reads `tile` pixels from `read` on.

    Indices below 0 or beyond the end are mirrored.
    """

    start: int
    stop: int
    read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """How a picture is cut; iterating yields its tiles row by row."""

    height: int
    width: int
    tile: int
    feather: int
    rows: tuple[Span, ...]
    cols: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return product(self.rows, self.cols)


def plan_tiles(*, height: int, width: int, tile: int, halo: int, feather: int) -> TilePlan:
    """Cut `height` x `width` pixels into tiles of `tile` x `tile`.

    Every kept pixel, blended ones included, has at least `halo - feather / 2` pixels of context.

    Raises:
        ValueError: the picture is empty; `feather` is odd, larger than `halo`, or larger than half
            of what a tile keeps (bands would meet); or the halos leave nothing to keep.
    """
    keep = tile - 2 * halo
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {height} x {width} pixels cannot be cut")
    if halo < 0 or keep < 1:
        raise ValueError(f"a halo of {halo} leaves nothing of a tile of {tile}")
    if feather % 2 or not 0 <= feather <= min(halo, keep // 2):
        raise ValueError(
            f"a feather of {feather} must be even, at most the halo ({halo}) "
            f"and at most half of what a tile keeps ({keep // 2})"
        )
    return TilePlan(
        height=height,
        width=width,
        tile=tile,
        feather=feather,
        rows=_split(height, tile=tile, halo=halo),
        cols=_split(width, tile=tile, halo=halo),
    )


def cheapest_plan(
    tiles: Iterable[int], *, height: int, width: int, halo: int, feather: int
) -> TilePlan:
    """The plan that reads the fewest pixels, with tiles of one of these sides.

    Large tiles waste less on context, small ones less beyond the edge of a small picture.

    Raises:
        ValueError: as `plan_tiles`.
    """
    plans = [
        plan_tiles(height=height, width=width, tile=tile, halo=halo, feather=feather)
        for tile in tiles
    ]
    return min(plans, key=lambda plan: (len(plan) * plan.tile**2, -plan.tile))


def cut(picture: Pixels, plan: TilePlan) -> Iterator[Pixels]:
    """The tiles of a picture (H, W, C), row by row, each (T, T, C).

    Tiles inside the picture are views: do not write to them.

    Raises:
        ValueError: the picture does not have the plan's size.
    """
    if picture.shape[:2] != (plan.height, plan.width) or picture.ndim != 3:
        raise ValueError(f"the plan is for {plan.height} x {plan.width}, not {picture.shape}")
    return (_read(picture, tile, side=plan.tile) for tile in plan)


def stitch(tiles: Iterable[Pixels], plan: TilePlan) -> Pixels:
    """Stitch upscaled tiles (4T, 4T, C), in the order of `cut`: (4H, 4W, C).

    Tiles are consumed one at a time and not kept, so they may share one buffer.

    Raises:
        ValueError: too few or too many tiles, or one with another shape or dtype than the first.
    """
    canvas = Canvas(plan)
    for tile in tiles:
        canvas.add(tile)
    return canvas.whole()


class Canvas:
    """A result onto which upscaled tiles (4T, 4T, C) are put one by one, in the order of `cut`."""

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        self._places = iter(plan)
        self._kind = ""
        self._done = 0

    def add(self, tile: Pixels) -> None:
        """Add the next tile. It is copied, unless it is the plan's only one.

        Raises:
            ValueError: the canvas is complete, or the tile has another shape or dtype than the
                first.
        """
        plan = self._plan
        if not self._kind:
            self._begin(tile)
        if (found := _described(tile.dtype, tile.shape)) != self._kind:
            raise ValueError(f"expected {self._kind}, got {found}")
        place = next(self._places, None)
        if place is None:
            raise ValueError(f"more than the {len(plan)} tiles of the plan")
        row, col = place
        top, bottom = _reach(row, plan.height, plan)
        left, right = _reach(col, plan.width, plan)
        y, x = top - SCALE * row.read, left - SCALE * col.read
        part = tile[y : y + bottom - top, x : x + right - left]
        self._done += 1
        if len(plan) == 1:
            self._pixels = part
            return
        blended = self._band if row.start else 0
        seam = self._shares if col.start else self._shares[:0]
        # The band of the row above is blended only when this row of tiles is complete.
        _put(part[:blended], self._above[:blended, left:right], seam)
        _put(part[blended:], self._pixels[top + blended : bottom, left:right], seam)
        if col.stop == plan.width:
            for y in range(blended):  # one line at a time fits the CPU cache
                _blend(self._pixels[top + y], self._above[y], self._shares[y, 0])

    def whole(self) -> Pixels:
        """The stitched result: (4H, 4W, C).

        Raises:
            ValueError: tiles are missing.
        """
        if self._done != len(self._plan):
            raise ValueError(f"expected {self._kind or 'tiles'}, got no tile")
        return self._pixels

    def _begin(self, tile: Pixels) -> None:
        plan, channels = self._plan, tile.shape[-1]
        side = SCALE * plan.tile
        self._kind = _described(tile.dtype, (side, side, *tile.shape[2:]))
        if len(plan) == 1:
            return
        self._band = SCALE * plan.feather  # F
        self._pixels = np.empty((SCALE * plan.height, SCALE * plan.width, channels), tile.dtype)
        self._above = np.empty((self._band, SCALE * plan.width, channels), tile.dtype)
        self._shares = _shares(self._band, channels, tile.dtype)


def is_flat(tile: Pixels) -> bool:
    """True if all pixels of a tile (T, T, C) have the same colour."""
    first = tile[0]
    # Nearly every tile fails in its first row, which is cheap to check.
    return bool((first == first[0]).all() and (tile == first).all())


def flat_result(tile: Pixels) -> Pixels:
    """A read-only (4T, 4T, C) array with the colour of a tile's first pixel."""
    height, width, channels = tile.shape
    row = np.tile(tile[0, 0], SCALE * width).reshape(1, SCALE * width, channels)
    return np.broadcast_to(row, (SCALE * height, SCALE * width, channels))


def _split(length: int, *, tile: int, halo: int) -> tuple[Span, ...]:
    """Tiles along one axis, evenly distributed."""
    count = -(-length // (tile - 2 * halo))
    # Integers, rounded half up: the sizes differ by at most one pixel.
    seams = [(2 * i * length + count) // (2 * count) for i in range(count + 1)]
    return tuple(
        Span(start, stop, _read_from(start, stop, length, tile=tile, halo=halo))
        for start, stop in pairwise(seams)
    )


def _read_from(start: int, stop: int, length: int, *, tile: int, halo: int) -> int:
    """First pixel to read; spare pixels are split evenly, preferably inside the picture."""
    read = start - (tile - (stop - start)) // 2
    first, last = -halo, length + halo - tile
    return min(max(read, first), last) if first <= last else read


def _read(picture: Pixels, tile: tuple[Span, Span], *, side: int) -> Pixels:
    for axis, span in enumerate(tile):
        length = picture.shape[axis]
        if span.read >= 0 and span.read + side <= length:
            inside = slice(span.read, span.read + side)
            picture = picture[inside] if axis == 0 else picture[:, inside]
        else:
            picture = picture.take(_reflected(span.read, side, length), axis=axis)
    return picture


def _reflected(read: int, side: int, length: int) -> NDArray[np.intp]:
    """Indices of `side` pixels from `read` on, mirrored at both ends as often as needed.

    The border pixel is repeated: that scores 0.02 to 0.16 dB better on Set5 than mirroring around
    its centre.
    """
    indices = np.arange(read, read + side) % (2 * length)
    return np.minimum(indices, 2 * length - 1 - indices)


def _reach(span: Span, length: int, plan: TilePlan) -> tuple[int, int]:
    """The result pixels that a tile writes: its kept part and half of the bands."""
    half = plan.feather // 2
    start = span.start - half if span.start else 0
    stop = span.stop + half if span.stop < length else length
    return SCALE * start, SCALE * stop


def _described(kind: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return f"a tile of {' x '.join(map(str, shape))} {kind}"


def _shares(band: int, channels: int, kind: np.dtype[Any]) -> Pixels:
    """The weight of the later tile for each pixel across a band, in 1/256: (F, C).

    With a dtype that holds a sample times 256.
    """
    shares = (2 * np.arange(band) + 1) * 128 // max(band, 1)
    # Repeated for the channels: broadcasting over 3 would be four times slower.
    wide: type[np.unsignedinteger] = np.uint16 if kind == np.uint8 else np.uint32
    return np.repeat(shares.astype(wide), channels).reshape(band, channels)


def _put(part: Pixels, place: Pixels, seam: Pixels) -> None:
    """Write a tile's part; its first columns blend with those of the previous tile."""
    band = len(seam)
    _blend(place[:, :band], part[:, :band], seam)
    place[:, band:] = part[:, band:]


def _blend(before: Pixels, after: Pixels, share: Pixels | np.integer) -> None:
    """Blend `after` into `before`, in place; v with v gives exactly v."""
    mixed = before * (256 - share)
    mixed += after * share
    mixed += 128
    mixed >>= 8
    before[:] = mixed
