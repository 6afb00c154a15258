"""Colour profiles: whatever a picture was tagged with becomes sRGB, or stays as it is.

A profile that amounts to sRGB changes nothing, to the bit. One that is broken, or made for another
kind of picture, is ignored with a warning, as browsers do. LittleCMS does samples of 8 bits, and
`workers.pictures.profiles` those of 16.
"""

import logging
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from workers.pictures.picture import Plane
from workers.pictures.profiles import Space, convert, grey_ramp, read_space

logger = logging.getLogger(__name__)

_BROKEN = (OSError, TypeError, ValueError)


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
        space = read_space(self.profile) if pixels.dtype == np.uint16 else None
        return Converted(_applied(found, pixels, space, _srgb_space()))

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


def cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Converted:
    """Convert a CMYK picture (255 is full ink) from its profile, or by plain arithmetic."""
    found = _found(profile, {"CMYK": "CMYK"}) if profile else None
    if isinstance(found, ImageCms.ImageCmsTransform):
        return Converted(np.asarray(found.apply(image)))
    plain = np.asarray(image.convert("RGB"))
    return Converted(plain) if found is None else _ignored(plain, found)


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
        space = read_space(profile) if pixels.dtype == np.uint16 else None
        return Converted(_applied(back, pixels, _srgb_space(), space), profile)
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
    transform: ImageCms.ImageCmsTransform,
    pixels: Plane,
    source: Space | None,
    target: Space | None,
) -> Plane:
    """Convert by arithmetic where 16 bits are there and both spaces allow it."""
    if pixels.dtype == np.uint16 and source is not None and target is not None:
        return convert(pixels.astype(np.uint16, copy=False), source, target)
    levels = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    converted = np.asarray(transform.apply(Image.fromarray(levels)))
    return converted if pixels.dtype == np.uint8 else converted * np.uint16(257)


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
    space, srgb = read_space(profile), _srgb_space()
    if space is not None and srgb is not None:
        return grey_ramp(space, srgb)
    levels: NDArray[np.float64] = np.interp(
        np.arange(65536), np.arange(256) * 257, curve.astype(float) * 257
    )
    return levels.round().astype(np.uint16)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@cache
def _srgb_space() -> Space | None:
    return read_space(_srgb().tobytes())


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
