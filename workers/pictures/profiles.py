"""The curves of ICC profiles (ICC.1:2022, sections 8.3, 8.4, 10.6 and 10.18), where they are of
three primaries or of grey, as nearly every profile that photographs carry is.
"""

import struct

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_STEPS = 65536
#: How many numbers each kind of formula has, and in which order they follow each other.
_FORMULAS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}


def read_curves(profile: bytes) -> Floats | None:
    """Linear light of each of 65536 levels of the three channels, (3, 65536), grey having three
    equal ones; None if the profile is of another kind, or broken.
    """
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        tags = {}
        for at in range(132, 132 + 12 * min(count, 100), 12):
            name, offset, size = struct.unpack_from(">4sII", profile, at)
            tags[name] = profile[offset : offset + size]
        if profile[16:20] == b"GRAY":
            return np.stack([_curve(tags[b"kTRC"])] * 3)
        if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ " or b"A2B0" in tags:
            return None
        return np.stack([_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")])
    except (ArithmeticError, LookupError, ValueError, struct.error):
        return None


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
