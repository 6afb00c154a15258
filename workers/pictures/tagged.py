"""Colour that is said in a few numbers, made an ICC profile: code points (ITU-T H.273), which PNG
calls cICP and HEIF nclx, and the gAMA and cHRM of PNG.

So all that has a colour space goes one way, and can be kept. PNG (third edition), section 4.3, has
the order: cICP, iCCP, sRGB, gAMA with cHRM.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Tagged(NamedTuple):
    """The profile that the numbers describe."""

    #: None: sRGB.
    profile: bytes | None = None
    warnings: tuple[str, ...] = ()


class _Chromaticities(NamedTuple):
    """The x and y (CIE 1931) of white and of the three primaries."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


_D65, _C, _DCI, _E = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351), (1 / 3, 1 / 3)
_BT709 = _Chromaticities(_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_SMPTE170M = _Chromaticities(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
#: ITU-T H.273, table 2; 2 is that nothing is said.
_PRIMARIES = {
    1: _BT709,
    2: _BT709,
    4: _Chromaticities(_C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: _Chromaticities(_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: _SMPTE170M,
    7: _SMPTE170M,
    8: _Chromaticities(_C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: _Chromaticities(_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: _Chromaticities(_DCI, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: _Chromaticities(_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: _Chromaticities(_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
_SRGB_CURVE = 0.0
#: Table 3: a power, or sRGB's curve. That of BT.709 and its kin is shown with sRGB's, as browsers
#: do: its own is for cameras, and none is named there for screens.
_TRANSFERS = {
    1: _SRGB_CURVE, 2: _SRGB_CURVE, 6: _SRGB_CURVE, 13: _SRGB_CURVE, 14: _SRGB_CURVE,
    15: _SRGB_CURVE, 4: 2.2, 5: 2.8, 8: 1.0,
}  # fmt: skip

#: The white of ICC profiles, and the cone responses that whites are adapted by (ICC.1:2022, E.3).
_D50 = np.array((0.9642, 1.0, 0.8249))
_BRADFORD = np.array(
    ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
)
#: The gAMA of sRGB: its writers may leave out the sRGB chunk.
_SRGB_GAMMA = 45455
_CLOSE = 0.002


def of_cicp(primaries: int, transfer: int) -> Tagged:
    """The profile of two code points; high dynamic range was refused by the header."""
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return Tagged(
            warnings=(f"ignored the colour space of code points {primaries}, {transfer}",)
        )
    chosen, power = _PRIMARIES[primaries], _TRANSFERS[transfer]
    if chosen is _BT709 and power == _SRGB_CURVE:
        return Tagged()
    return Tagged(_profile(chosen, power))


def of_png(tags: Mapping[bytes, bytes]) -> Tagged:
    """The profile that a PNG's sRGB, gAMA and cHRM describe."""
    if b"sRGB" in tags or not tags:
        return Tagged()
    numbers = struct.unpack(">8I", tags[b"cHRM"]) if len(tags.get(b"cHRM", b"")) == 32 else ()
    (gamma,) = struct.unpack(">I", tags[b"gAMA"]) if len(tags.get(b"gAMA", b"")) == 4 else (0,)
    chosen = _BT709
    if numbers:
        pairs = [(x / 100_000, y / 100_000) for x, y in zip(*[iter(numbers)] * 2, strict=True)]
        chosen = _Chromaticities(*pairs)
    is_srgb = bool(np.abs(np.subtract(chosen, _BT709)).max() < _CLOSE)
    if is_srgb and gamma in (0, _SRGB_GAMMA):
        return Tagged()
    if (gamma and not 1_000 <= gamma <= 1_000_000) or not _spans(chosen):
        return Tagged(warnings=("ignored gAMA and cHRM chunks that make no sense",))
    return Tagged(_profile(chosen, 100_000 / gamma if gamma else _SRGB_CURVE))


def _spans(chosen: _Chromaticities) -> bool:
    """Whether they are those of a space at all."""
    if any(not 0 < y <= 1 for _, y in chosen):
        return False
    return abs(float(np.linalg.det(_xyz_columns(chosen)))) > 1e-4


def _profile(chosen: _Chromaticities, power: float) -> bytes:
    """An ICC profile (version 4) of three primaries and one curve."""
    columns, white = _xyz_columns(chosen), _xyz(chosen.white)
    to_xyz = columns * np.linalg.solve(columns, white)
    adapted = np.diag(_BRADFORD @ _D50) @ np.diag(1 / (_BRADFORD @ white)) @ _BRADFORD
    adapted = np.linalg.solve(_BRADFORD, adapted)
    curve = b"para\0\0\0\0" + (
        b"\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        if power == _SRGB_CURVE
        else b"\0\0\0\0" + _fixed(power)
    )
    primaries = (adapted @ to_xyz).T
    tags = {
        b"desc": _text("as the picture says in numbers"),
        b"cprt": _text("none"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(*adapted.ravel()),
        **{
            f"{name}XYZ".encode(): b"XYZ \0\0\0\0" + _fixed(*column)
            for name, column in zip("rgb", primaries, strict=True)
        },
        **{f"{name}TRC".encode(): curve for name in "rgb"},
    }
    return _with_header(tags)


def _with_header(tags: Mapping[bytes, bytes]) -> bytes:
    """ICC.1:2022, sections 7.2 and 7.3."""
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", offset + len(data), len(body))
        data += body + b"\0" * (-len(body) % 4)
    start = struct.pack(">I4sI", offset + len(data), b"\0\0\0\0", 0x04300000) + b"mntrRGB XYZ "
    start = start.ljust(36, b"\0") + b"acsp".ljust(32, b"\0") + _fixed(*_D50)
    return start.ljust(128, b"\0") + table + data


def _text(words: str) -> bytes:
    data = words.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(data), 28) + data


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(float(number) * 65536)) for number in numbers)


def _xyz(place: tuple[float, float]) -> NDArray[np.float64]:
    """XYZ of luminance 1."""
    x, y = place
    return np.array((x / y, 1.0, (1 - x - y) / y))


def _xyz_columns(chosen: _Chromaticities) -> NDArray[np.float64]:
    return np.stack([_xyz(place) for place in chosen[1:]], axis=1)
