"""ICC profiles for colour spaces that are given in numbers: code points (ITU-T H.273; cICP in PNG,
nclx in HEIF), the gAMA and cHRM chunks of PNG, and Adobe RGB in EXIF.

All colour spaces are then handled as profiles, and can be kept. The order of precedence is cICP,
iCCP, sRGB, gAMA with cHRM (PNG, third edition, section 4.3), EXIF; one that is broken or unknown
gives way to the next.
"""

import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import imagecodecs
import numpy as np

from workers.pictures.colour.srgb import srgb_light


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


_D65, _C, _DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
_BT709 = _Chromaticities(_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_SMPTE170M = _Chromaticities(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
#: ITU-T H.273, table 2; 2 means unspecified.
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
#: Table 3: an exponent, or sRGB's curve. BT.709 and its relatives are shown with sRGB's, as in
#: browsers: their own curve is for cameras, and the table names none for screens.
_TRANSFERS = {
    1: _SRGB_CURVE, 2: _SRGB_CURVE, 6: _SRGB_CURVE, 13: _SRGB_CURVE, 14: _SRGB_CURVE,
    15: _SRGB_CURVE, 4: 2.2, 5: 2.8, 8: 1.0,
}  # fmt: skip

_ADOBE_GAMMA = 563 / 256

#: The gAMA of sRGB: some writers omit the sRGB chunk.
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
    if (not gamma or 1_000 <= gamma <= 1_000_000) and _spans(chosen):
        with suppress(imagecodecs.CmsError):
            return Tagged(_profile(chosen, 100_000 / gamma if gamma else _SRGB_CURVE))
    return Tagged(warnings=("ignored gAMA and cHRM chunks that make no sense",))


def adobe_rgb() -> Tagged:
    """The profile of Adobe RGB (1998)."""
    return Tagged(_profile(_BT709._replace(green=(0.21, 0.71)), _ADOBE_GAMMA))


def _spans(chosen: _Chromaticities) -> bool:
    """True if the primaries span a colour space."""
    if any(not 0 < y <= 1 for _, y in chosen):
        return False
    xyz = [(x / y, 1.0, (1 - x - y) / y) for x, y in chosen[1:]]  # of luminance 1
    return abs(float(np.linalg.det(xyz))) > 1e-4


def _profile(chosen: _Chromaticities, power: float) -> bytes:
    """Make an ICC profile of three primaries and one curve; equal arguments give equal bytes."""
    white, *primaries = ((x, y, 1.0) for x, y in chosen)
    curve: dict[str, Any] = {"gamma": power}
    if power == _SRGB_CURVE:
        light = srgb_light(np.linspace(0, 1, 1024))
        curve = {"transferfunction": (65535 * light).round().astype(np.uint16)}
    profile = imagecodecs.cms_profile(
        "rgb", whitepoint=white, primaries=np.ravel(primaries).tolist(), **curve
    )
    return profile[:24] + bytes(12) + profile[36:]  # without the creation time
