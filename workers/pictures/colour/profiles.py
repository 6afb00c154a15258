"""Colour profiles: converts pictures to sRGB, or keeps them in their own space.

A profile that amounts to sRGB changes no bit. A profile that is broken, or for another kind of
picture, is ignored with a warning, as in browsers. LittleCMS, as part of imagecodecs, converts
pixels and reads curves.
"""

import logging
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from workers.pictures.picture import Picture, Plane, scaled

logger = logging.getLogger(__name__)

_BROKEN = (RuntimeError, TypeError, ValueError)
#: imagecodecs' names of the ICC colour spaces.
_SPACES = {"RGB": "rgb", "GRAY": "gray", "CMYK": "cmyk", "XYZ": "xyz"}
_DEEP_LEVELS = np.arange(65536, dtype=np.uint16)
#: Tolerated fall of a curve from one level to the next: LittleCMS rounds.
_ROUNDED = 1e-6

Floats = NDArray[np.float32]


class Converted(NamedTuple):
    """Pixels in another space."""

    pixels: Plane
    #: The profile of their space if that was asked for; None: sRGB.
    profile: bytes | None = None
    warnings: tuple[str, ...] = ()


def rgb_to_srgb(pixels: Plane, profile: bytes | None, *, keep: bool = False) -> Converted:
    """Convert RGB pixels (H, W, 3) from a profile to sRGB; with `keep` they stay in its space."""
    if not profile:
        return Converted(pixels)
    probed = _probed(profile, "RGB")
    if isinstance(probed, str):
        return _ignored(pixels, probed)
    if keep:
        return Converted(pixels, profile)
    if _is_close(probed, _probe("RGB")):
        return Converted(pixels)
    return Converted(_transformed(pixels, profile, _made("srgb")))


def grey_to_srgb(levels: Plane, profile: bytes | None, *, keep: bool = False) -> Converted:
    """Convert grey levels (H, W), as `rgb_to_srgb`.

    Some grey pictures have a profile for RGB; their levels are that space's greys.
    """
    if not profile:
        return Converted(levels)
    curve = _grey_curve(profile, levels.dtype)
    if isinstance(curve, str):
        return _ignored(levels, curve)
    return Converted(levels, profile) if keep else Converted(curve[levels])


def cmyk_to_srgb(inks: Plane, profile: bytes | None) -> Converted:
    """Convert CMYK (H, W, 4), whose maximum is full ink, by a profile or plain arithmetic."""
    probed = _probed(profile, "CMYK") if profile else ""
    if profile and not isinstance(probed, str):
        return Converted(_transformed(inks, profile, _made("srgb")))
    full = np.iinfo(inks.dtype).max
    # At most 65535 x 65535 and a half of 65535: just within 32 bits.
    paper = (full - inks).astype(np.uint32)
    plain = ((paper[..., :3] * paper[..., 3:] + full // 2) // full).astype(inks.dtype)
    return _ignored(plain, probed) if isinstance(probed, str) and probed else Converted(plain)


def is_for_grey(profile: bytes) -> bool:
    """True if its space has no colour."""
    return _space(profile) == "GRAY"


def without_grey_profile(picture: Picture) -> Picture:
    """Convert the picture to sRGB if its profile is for grey; others stay."""
    if picture.profile is None or not is_for_grey(picture.profile):
        return picture
    levels = grey_to_srgb(picture.colour[..., 0], picture.profile).pixels
    colour = np.broadcast_to(levels[..., None], picture.colour.shape)
    return replace(picture, colour=colour, profile=None)


def srgb_to_rgb(pixels: Plane, profile: bytes) -> Converted:
    """Convert sRGB pixels (H, W, 3) to a profile."""
    probe = _probe("RGB")
    try:
        if _is_close(_transformed(probe, _made("srgb"), profile), probe):
            return Converted(pixels, profile)
        return Converted(_transformed(pixels, _made("srgb"), profile), profile)
    except _BROKEN:
        return _ignored(pixels, "the background is of sRGB: the picture's profile works one way")


def srgb_to_grey(levels: Plane, profile: bytes) -> Converted:
    """Convert sRGB grey levels to a profile: the inverse of `grey_to_srgb`."""
    curve = _grey_curve(profile, levels.dtype)
    if isinstance(curve, str):
        return _ignored(levels, curve)
    steps = np.arange(len(curve))
    back = np.interp(steps, np.maximum.accumulate(curve), steps).round().astype(levels.dtype)
    return Converted(back[levels], profile)


def read_curves(profile: bytes) -> Floats | None:
    """Linear light of each of 65536 levels of each channel, (3, 65536); equal ones for grey.

    None for a profile that is broken, is neither for grey nor of three primaries (nearly all of
    photographs are one of those), or has a curve that does not ascend.
    """
    tags = {profile[at : at + 4] for at in range(132, min(len(profile), 132 + 12 * 100), 12)}
    try:
        if is_for_grey(profile):
            return np.stack([_light(_DEEP_LEVELS[None], profile)] * 3)
        if _space(profile) != "RGB" or profile[20:24] != b"XYZ " or b"A2B0" in tags:
            return None
        ramps = np.eye(3, dtype=np.uint16)[:, None] * _DEEP_LEVELS[:, None]  # (3, 65536, 3)
        return np.stack([_light(ramp[None], profile) for ramp in ramps])
    except _BROKEN:
        return None


def _light(ramp: Plane, profile: bytes) -> Floats:
    """Light from 0 to 1 of a channel's levels (1, 65536, C): their XYZ relative to the last's."""
    xyz = _transformed(ramp, profile, _made("xyz"), kind=np.float64)[0]
    part = np.abs(xyz[-1]).argmax()  # a primary may have no luminance
    if not np.isfinite(xyz).all() or not xyz[-1, part]:
        raise ValueError("a curve without light")
    light: NDArray[np.float64] = (xyz[:, part] / xyz[-1, part]).clip(0, 1)
    if (np.diff(light) < -_ROUNDED).any():
        raise ValueError("a curve that does not ascend")
    return light.astype(np.float32)


def _ignored(pixels: Plane, warning: str) -> Converted:
    logger.warning(warning)
    return Converted(pixels, None, (warning,))


def _space(profile: bytes) -> str:
    """The ICC name of its space, with other bytes than visible ASCII escaped: warnings show it."""
    return ascii(profile[16:20].decode("latin-1").strip())[1:-1]


def _probed(profile: bytes, *spaces: str) -> Plane | str:
    """A profile's probe (1, N, 3) in sRGB if its space is one of these, or why it is ignored."""
    try:
        imagecodecs.cms_profile_validate(profile)
        space = _space(profile)
        if space not in spaces:
            return f"ignored a colour profile for {space}"
        return _transformed(_probe(space), profile, _made("srgb"))
    except _BROKEN as broken:
        return f"ignored a broken colour profile: {broken}"


def _transformed(pixels: Plane, source: bytes, target: bytes, *, kind: Any = None) -> NDArray[Any]:
    """Convert pixels (H, W, channels), or (H, W) of grey, from one profile to another. With `kind`,
    return that type, without black point compensation.
    """
    flags = 0 if kind else int(imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION)
    if pixels.dtype == np.uint16:
        # By default, LittleCMS converts 16-bit samples by a table of 33 steps a side, which is off
        # by up to ten 8-bit levels in dark colours.
        flags |= imagecodecs.CMS.FLAGS.NOOPTIMIZE
    converted: NDArray[Any] = imagecodecs.cms_transform(
        np.ascontiguousarray(pixels),
        source,
        target,
        colorspace=_SPACES[_space(source)],
        outcolorspace=_SPACES[_space(target)],
        outdtype=kind or pixels.dtype,
        intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
        flags=flags,
    )
    return converted


def _grey_curve(profile: bytes, kind: np.dtype[np.unsignedinteger]) -> Plane | str:
    """The sRGB level of each grey level, (256,) or (65536,), or why the profile is ignored."""
    probed = _probed(profile, "GRAY", "RGB")
    if isinstance(probed, str):
        return probed
    levels: Plane = np.arange(np.iinfo(kind).max + 1).astype(kind)
    if _is_close(probed[0, :256, 1], np.arange(256)):
        return levels
    # LittleCMS is off by up to ten of 256 levels in the dark if it gets grey of 8 bits.
    greys = scaled(levels, 8 * levels.itemsize, 16)
    if not is_for_grey(profile):
        greys = np.repeat(greys[:, None], 3, axis=-1)
    curve: Plane = _transformed(greys[None], profile, _made("srgb"))[0, :, 1]
    return scaled(curve, 16, 8 * levels.itemsize)


@cache
def _made(space: str) -> bytes:
    return imagecodecs.cms_profile(space)


@cache
def _probe(space: str) -> Plane:
    """Every grey level, and for RGB also a grid of colours; for CMYK, only white paper."""
    greys = np.arange(256, dtype=np.uint8)
    if space == "GRAY":
        return greys[None]
    if space == "CMYK":
        return np.zeros((1, 1, 4), np.uint8)
    steps = np.linspace(0, 255, 17).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    return np.concatenate((np.repeat(greys[:, None], 3, axis=-1), cube))[None]


def _is_close(converted: Plane, original: NDArray[Any]) -> bool:
    """True if no sample differs by more than one level, which is what rounding alone can do."""
    return bool(np.abs(converted.astype(int) - original).max() <= 1)
