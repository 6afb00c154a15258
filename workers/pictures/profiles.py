"""ICC profiles of three primaries or one curve, by arithmetic: for samples of 16 bits.

LittleCMS would put 16-bit samples through a table of 33 steps a side, which is off by up to ten
8-bit levels in the darks. ICC.1:2022, sections 8.3, 8.4, 10.6 and 10.18. Nearly every RGB profile
that photographs carry is of this kind; those that are a table are left to LittleCMS at 8 bits.

Letters: H x W a picture's pixels.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.pictures.picture import Plane

Floats = NDArray[np.float32]

_STEPS = 65536
_BAND_ROWS = 64
#: How many numbers each kind of formula has, and in which order they follow each other.
_FORMULAS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}


class Space(NamedTuple):
    """A colour space of three channels; grey has three equal ones."""

    #: Linear light of each of 65536 levels: (3, 65536).
    curves: Floats
    #: Linear light of the channels, a column each, to XYZ under D50: (3, 3).
    to_xyz: NDArray[np.float64]


def read_space(profile: bytes) -> Space | None:
    """The space of a profile; None if it is of another kind, or broken."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        tags = {}
        for at in range(132, 132 + 12 * min(count, 100), 12):
            name, offset, size = struct.unpack_from(">4sII", profile, at)
            tags[name] = profile[offset : offset + size]
        if profile[16:20] == b"GRAY":
            # Grey of every level has the colour of white, whatever the primaries.
            return Space(np.stack([_curve(tags[b"kTRC"])] * 3), np.eye(3))
        if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ " or b"A2B0" in tags:
            return None
        columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        curves = np.stack([_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")])
        space = Space(curves, np.array(columns, np.float64).T / 65536)
    except (ArithmeticError, LookupError, ValueError, struct.error):
        return None
    return space if abs(np.linalg.det(space.to_xyz)) > 1e-6 else None


def convert(pixels: NDArray[np.uint16], source: Space, target: Space) -> NDArray[np.uint16]:
    """Pixels (H, W, 3) from one space to another; what the target does not have is clipped."""
    matrix = (np.linalg.inv(target.to_xyz) @ source.to_xyz).astype(np.float32)
    # Light is looked up by its square root, which is close to how every space stores it: so 65536
    # steps are as fine in the darks as the stored levels themselves.
    roots = (np.arange(_STEPS, dtype=np.float64) / (_STEPS - 1)) ** 2
    levels = np.arange(_STEPS)
    stored = [np.interp(roots, curve, levels).round().astype(np.uint16) for curve in target.curves]
    result = np.empty(pixels.shape, np.uint16)
    for top in range(0, len(pixels), _BAND_ROWS):
        band = pixels[top : top + _BAND_ROWS]
        light = np.stack([source.curves[i][band[..., i]] for i in range(3)], axis=-1) @ matrix.T
        places = (np.sqrt(light.clip(0, 1)) * (_STEPS - 1) + 0.5).astype(np.uint16)
        for i in range(3):
            result[top : top + _BAND_ROWS, :, i] = stored[i][places[..., i]]
    return result


def grey_ramp(source: Space, target: Space) -> Plane:
    """The level in `target` of each of the 65536 greys of `source`: (65536,)."""
    ramp = np.arange(_STEPS, dtype=np.uint16)
    if np.array_equal(source.to_xyz, np.eye(3)):
        source = source._replace(to_xyz=target.to_xyz)
    return convert(np.stack((ramp,) * 3, axis=-1)[None], source, target)[0, :, 1]


def _curve(tag: bytes) -> Floats:
    """The light of 65536 levels; ascending, as every curve of a real device is."""
    x = np.linspace(0, 1, _STEPS)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return x.astype(np.float32)
        table = np.array(struct.unpack_from(f">{min(count, _STEPS)}H", tag, 12), np.float64)
        y = (
            x ** (table[0] / 256)
            if count == 1
            else np.interp(x, np.linspace(0, 1, count), table / 65535)
        )
    elif tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        numbers = struct.unpack_from(f">{_FORMULAS[kind]}i", tag, 12)
        y = _formula(kind, [number / 65536 for number in numbers], x)
    else:
        raise ValueError("a curve of an unknown kind")
    y = np.asarray(y).clip(0, 1)
    if not np.isfinite(y).all() or (np.diff(y) < 0).any() or y[-1] <= 0:
        raise ValueError("a curve that does not ascend")
    return y.astype(np.float32)


def _formula(kind: int, numbers: list[float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    g, a, b, c, d, e, f = (numbers + [1.0, 0.0, 0.0, 0.0, 0.0, 0.0][len(numbers) - 1 :])[:7]
    if kind == 0:
        return x**g
    if kind == 1:
        c, d, e, f = 0.0, -b / a, 0.0, 0.0
    elif kind == 2:
        c, d, e, f = 0.0, -b / a, c, c
    elif kind == 3:
        e = f = 0.0
    above = np.maximum(a * x + b, 0) ** g + e
    return np.where(x >= d, above, c * x + f)
