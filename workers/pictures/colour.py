"""Colour profiles: whatever a picture was tagged with becomes sRGB, or stays as it is.

A profile that amounts to sRGB changes nothing, to the bit. One that is broken, or made for another
kind of picture, is ignored with a warning, as browsers do. LittleCMS converts: for samples of 8
bits as Pillow has it, for those of 16 as imagecodecs has it.
"""

import logging
from functools import cache
from io import BytesIO
from typing import NamedTuple

import imagecodecs
import numpy as np
from PIL import Image, ImageCms

from workers.pictures.picture import Plane

logger = logging.getLogger(__name__)

_BROKEN = (OSError, TypeError, ValueError)
#: The spaces of profiles, in the words of imagecodecs.
_SPACES = {b"RGB ": "rgb", b"GRAY": "gray", b"CMYK": "cmyk"}


class Converted(NamedTuple):
    """Pixels in another space."""

    pixels: Plane
    #: That of their space, where it was asked for; else it is sRGB.
    profile: bytes | None = None
    warnings: tuple[str, ...] = ()


class Wanted(NamedTuple):
    """The profile of a picture, and whether its pixels are to stay in that space."""

    profile: bytes | None
    keep: bool = False

    def rgb(self, pixels: Plane) -> Converted:
        """RGB pixels (H, W, 3) in the space that is wanted."""
        if not self.profile:
            return Converted(pixels)
        found = _found(self.profile, {"RGB": "RGB"})
        if isinstance(found, str):
            return _ignored(pixels, found)
        if self.keep:
            return Converted(pixels, self.profile)
        probe = _probe()
        if _is_close(found.apply(probe), probe):
            return Converted(pixels)
        return Converted(_applied(found, pixels, self.profile, _srgb_profile()))

    def grey(self, levels: Plane) -> Converted:
        """Grey levels (H, W) in the space that is wanted.

        Grey pictures are found with profiles for RGB, too; their levels are that space's greys.
        """
        if not self.profile:
            return Converted(levels)
        found = _found(self.profile, {"GRAY": "L", "RGB": "RGB"})
        if isinstance(found, str):
            return _ignored(levels, found)
        if self.keep:
            return Converted(levels, self.profile)
        curve = _grey_curve(found, self.profile, levels.dtype == np.uint16)
        return Converted(levels if curve is None else curve[levels])


def cmyk_to_srgb(inks: Plane, profile: bytes | None) -> Converted:
    """Convert CMYK (H, W, 4), which is full ink at full, by a profile or by plain arithmetic."""
    found = _found(profile, {"CMYK": "CMYK"}) if profile else ""
    if isinstance(found, ImageCms.ImageCmsTransform) and profile:
        return Converted(_applied(found, inks, profile, _srgb_profile()))
    full = np.iinfo(inks.dtype).max
    # At most 65535 x 65535 and a half of 65535: just within 32 bits.
    paper = (full - inks).astype(np.uint32)
    plain = ((paper[..., :3] * paper[..., 3:] + full // 2) // full).astype(inks.dtype)
    return _ignored(plain, found) if isinstance(found, str) and found else Converted(plain)


def is_for_grey(profile: bytes) -> bool:
    """Whether its space has no colour."""
    return profile[16:20] == b"GRAY"


def srgb_to_rgb(pixels: Plane, profile: bytes) -> Converted:
    """Convert sRGB pixels (H, W, 3) to a profile."""
    try:
        target = ImageCms.ImageCmsProfile(BytesIO(profile))
        back = _transform(_srgb(), target, "RGB")
        probe = _probe()
        if _is_close(back.apply(probe), probe):
            return Converted(pixels, profile)
        return Converted(_applied(back, pixels, _srgb_profile(), profile), profile)
    except _BROKEN:
        return _ignored(pixels, "the background is of sRGB: the picture's profile works one way")


def srgb_to_grey(levels: Plane, profile: bytes) -> Converted:
    """The way back of `Wanted.grey`."""
    found = _found(profile, {"GRAY": "L", "RGB": "RGB"})
    if isinstance(found, str):
        return _ignored(levels, found)
    curve = _grey_curve(found, profile, levels.dtype == np.uint16)
    if curve is None:
        return Converted(levels, profile)
    steps = np.arange(len(curve))
    back = np.interp(steps, np.maximum.accumulate(curve), steps).round().astype(levels.dtype)
    return Converted(back[levels], profile)


def _ignored(pixels: Plane, warning: str) -> Converted:
    logger.warning(warning)
    return Converted(pixels, None, (warning,))


def _found(profile: bytes, modes: dict[str, str]) -> ImageCms.ImageCmsTransform | str:
    """From `profile` to sRGB, if its colour space is among `modes` (with the pictures' mode), or
    why not.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space not in modes:
            return f"ignored a colour profile for {space}"
        return _transform(source, _srgb(), modes[space])
    except _BROKEN as broken:
        return f"ignored a broken colour profile: {broken}"


def _transform(
    source: ImageCms.ImageCmsProfile, target: ImageCms.ImageCmsProfile, mode: str
) -> ImageCms.ImageCmsTransform:
    return ImageCms.ImageCmsTransform(
        source,
        target,
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _applied(
    transform: ImageCms.ImageCmsTransform, pixels: Plane, source: bytes, target: bytes
) -> Plane:
    if pixels.dtype == np.uint16:
        return _deep(pixels, source, target)
    image = Image.fromarray(np.ascontiguousarray(pixels), transform.input_mode)
    return np.asarray(transform.apply(image))


def _deep(pixels: Plane, source: bytes, target: bytes) -> Plane:
    """Pixels (H, W, channels) of 16 bits from one profile to another.

    LittleCMS would put them through a table of 33 steps a side, which is off by up to ten 8-bit
    levels in the darks, if it were not told to compute each.
    """
    spaces = [_SPACES[profile[16:20]] for profile in (source, target)]
    converted: Plane = imagecodecs.cms_transform(
        np.ascontiguousarray(pixels),
        source,
        target,
        colorspace=spaces[0],
        outcolorspace=spaces[1],
        outdtype=np.uint16,
        intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
        flags=imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION | imagecodecs.CMS.FLAGS.NOOPTIMIZE,
    )
    return converted


def _grey_curve(
    transform: ImageCms.ImageCmsTransform,
    profile: bytes,
    deep: bool,  # noqa: FBT001
) -> Plane | None:
    """The sRGB level of each level of grey: (256,) or (65536,); None if they are the same."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])  # (1, 256)
    converted = transform.apply(ramp.convert(transform.input_mode)).getchannel("G")
    if _is_close(converted, ramp):
        return None
    curve: Plane = np.asarray(converted)[0]
    if not deep:
        return curve
    levels = np.arange(65536, dtype=np.uint16)[None]  # (1, 65536)
    if profile[16:20] == b"RGB ":
        levels = np.repeat(levels[..., None], 3, axis=-1)
    return _deep(levels, profile, _srgb_profile())[0, :, 1]


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@cache
def _srgb_profile() -> bytes:
    return _srgb().tobytes()


@cache
def _probe() -> Image.Image:
    """Every grey, and colours from all over the cube."""
    greys = np.repeat(np.arange(256), 3).reshape(-1, 3)
    steps = np.linspace(0, 255, 17).astype(int)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.concatenate((greys, cube)).astype(np.uint8)[None])


def _is_close(converted: Image.Image, original: Image.Image) -> bool:
    """Whether no sample differs by more than one level, which is what rounding alone can do."""
    difference = np.asarray(converted).astype(int) - np.asarray(original)
    return bool(np.abs(difference).max() <= 1)
