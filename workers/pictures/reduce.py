"""Reduces a picture in linear light: the eye averages light, not levels. The transfer curves are
those of its colour profile if that has one curve per channel, else sRGB's.

Alpha is already linear and is resampled as it is. The colour under transparent pixels was filled
in before (`workers.pictures.colour.alpha.bleed_alpha`), so no hidden colour comes into the edges.

Letters: H x W a picture's pixels, h x w those of the smaller one.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.pictures.colour.profiles import read_curves
from workers.pictures.colour.srgb import srgb_levels, srgb_light
from workers.pictures.picture import Picture, Plane

_BAND_ROWS = 128
_FILTER = Image.Resampling.BICUBIC
_REACH = 2  # of that filter, in pixels of the smaller picture
_STEPS = 65535
_ROOTS = np.arange(_STEPS + 1) / _STEPS

Floats = NDArray[np.float32]


def reduced(picture: Picture, *, width: int, height: int) -> Picture:
    """Return the picture in `width` x `height` pixels, antialiased.

    Raises:
        ValueError: the size is empty, or larger than the picture.
    """
    if (width, height) == (picture.width, picture.height):
        return picture
    if not (0 < width <= picture.width and 0 < height <= picture.height):
        raise ValueError(f"{picture.width} x {picture.height} cannot be reduced to {width, height}")
    kind = picture.colour.dtype.type
    colour: Plane = np.empty((height, width, 1 if picture.grey else 3), kind)
    curves = read_curves(picture.profile) if picture.profile else None
    for channel in range(colour.shape[2]):
        if curves is None:
            full = _full(kind)
            light = srgb_light(np.linspace(0, 1, full + 1)).astype(np.float32)
            # by the square root of light: roots resolve dark levels too
            levels = (srgb_levels(_ROOTS**2) * full).round().astype(kind)
        else:
            light, levels = _of_curve(curves[channel], kind)
        for rows, band in _bands(picture.colour[..., channel], light, width, height):
            colour[rows, :, channel] = levels[(np.sqrt(band) * _STEPS + 0.5).astype(np.uint16)]
    alpha = picture.alpha
    if alpha is not None:
        alpha = reduced_shares(alpha, width=width, height=height)
    return replace(picture, colour=np.broadcast_to(colour, (height, width, 3)), alpha=alpha)


def reduced_mask(mask: Picture, *, width: int, height: int) -> Picture:
    """Return a mask in `width` x `height` pixels, antialiased; its levels are shares, not light."""
    shares = reduced_shares(mask.colour[..., 0], width=width, height=height)
    return replace(mask, colour=np.broadcast_to(shares[..., None], (height, width, 3)))


def reduced_shares(plane: Plane, *, width: int, height: int) -> Plane:
    """Return a plane (H, W) of linear shares, such as alpha, reduced to (h, w), antialiased."""
    if plane.shape == (height, width):
        return plane
    kind = plane.dtype.type
    full = _full(kind)
    shares = (np.arange(full + 1) / full).astype(np.float32)
    result = np.empty((height, width), kind)
    for rows, band in _bands(plane, shares, width, height):
        result[rows] = (band * full + 0.5).astype(kind)
    return result


def _bands(plane: Plane, values: Floats, width: int, height: int) -> Iterator[tuple[slice, Floats]]:
    """Yield the reduced plane (h, w) in bands of rows; `values` maps each level to [0, 1]."""
    step = len(plane) / height
    for top in range(0, height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, height)
        first = max(int((top - _REACH) * step) - 1, 0)
        last = min(int((bottom + _REACH) * step) + 2, len(plane))
        box = (0, top * step - first, plane.shape[1], min(bottom * step - first, last - first))
        image = Image.fromarray(values[plane[first:last]])
        band = np.asarray(image.resize((width, bottom - top), _FILTER, box=box))
        yield slice(top, bottom), band.clip(0, 1)


def _of_curve(curve: Floats, kind: type[np.unsignedinteger]) -> tuple[Floats, Plane]:
    """Return both tables for a curve, which gives the light of each of 65536 levels."""
    light = curve[:: _STEPS // _full(kind)]
    levels: Plane = np.interp(_ROOTS**2, light, np.arange(len(light))).round().astype(kind)
    return light, levels


def _full(kind: type[np.unsignedinteger]) -> int:
    return int(np.iinfo(kind).max)
