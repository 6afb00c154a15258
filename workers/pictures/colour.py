"""Colour profiles: whatever a picture was tagged with becomes sRGB.

A profile that amounts to sRGB changes nothing, to the bit. One that is broken, or made for another
kind of picture, is ignored with a logged warning, as browsers do.
"""

import logging
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from workers.pictures.picture import Plane

logger = logging.getLogger(__name__)


def rgb_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an RGB picture from its profile."""
    transform = _transform(profile, {"RGB": "RGB"})
    if transform is None:
        return image
    probe = _probe()
    return image if _is_close(transform.apply(probe), probe) else transform.apply(image)


def cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a CMYK picture (255 is full ink) from its profile, or by plain arithmetic."""
    transform = _transform(profile, {"CMYK": "CMYK"})
    return image.convert("RGB") if transform is None else transform.apply(image)


def grey_curve(profile: bytes | None) -> Plane | None:
    """The sRGB level of each level of a grey picture: (256,); None if they are the same.

    Grey pictures are found with profiles for RGB, too; their levels are then that space's greys.
    """
    transform = _transform(profile, {"GRAY": "L", "RGB": "RGB"})
    if transform is None:
        return None
    levels = np.arange(256, dtype=np.uint8)
    ramp = Image.fromarray(levels[None])  # (1, 256)
    converted = transform.apply(ramp.convert(transform.input_mode)).getchannel("G")
    return None if _is_close(converted, ramp) else np.asarray(converted)[0]


def _transform(profile: bytes | None, modes: dict[str, str]) -> ImageCms.ImageCmsTransform | None:
    """From `profile` to sRGB, if its colour space is among `modes` (with the pictures' mode)."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space not in modes:
            logger.warning("ignored a colour profile for %s", space)
            return None
        return ImageCms.ImageCmsTransform(
            source,
            _srgb(),
            modes[space],
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, TypeError, ValueError) as broken:
        logger.warning("ignored a broken colour profile: %s", broken)
        return None


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


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
