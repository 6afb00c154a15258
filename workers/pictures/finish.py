"""From the choices of a client to the picture that is to be stored."""

from dataclasses import replace

import numpy as np

from workers.contract.images.formats import ResultFormat
from workers.contract.images.options import (
    SCALE,
    DepthMode,
    MetadataMode,
    PictureChoices,
    ProfileMode,
)
from workers.pictures.alpha import laid_on
from workers.pictures.colour import srgb_to_grey, srgb_to_rgb
from workers.pictures.metadata import Metadata
from workers.pictures.picture import Picture, with_bits
from workers.pictures.reduce import reduced, reduced_mask


def preprocess(picture: Picture, choices: PictureChoices, result: ResultFormat) -> Picture:
    """The decoded picture in as many bits as its result is to have."""
    wanted = picture.bits if choices.depth is DepthMode.SAME else int(choices.depth)
    return with_bits(picture, min(wanted, result.max_bits))


def postprocess(picture: Picture, choices: PictureChoices) -> Picture:
    """The picture, four times larger by now, in the size, on the background and in the colour space
    that were chosen, with what it is to keep.

    Raises:
        ScaleTooLarge: it is not large enough for the size that was chosen.
    """
    width, height = choices.result_size(
        width=picture.width // SCALE, height=picture.height // SCALE
    )
    picture = reduced(picture, width=width, height=height)
    if choices.background is not None:
        picture = laid_on(picture, choices.background)
    if choices.metadata is MetadataMode.STRIP:
        picture = replace(picture, metadata=Metadata())
    if choices.icc is ProfileMode.KEEP and picture.was_cmyk:
        warning = "the result is in sRGB: a CMYK picture becomes RGB, its profile does not fit"
        return replace(picture, warnings=(*picture.warnings, warning))
    if choices.icc is ProfileMode.KEEP and picture.source_profile is not None:
        picture = _in_its_space(picture, picture.source_profile)
    return picture


def postprocess_mask(mask: Picture, choices: PictureChoices) -> Picture:
    """A mask, four times larger by now, in the size that was chosen: its levels are no light.

    Raises:
        ScaleTooLarge: it is not large enough for that size.
    """
    width, height = choices.result_size(width=mask.width // SCALE, height=mask.height // SCALE)
    return reduced_mask(mask, width=width, height=height)


def _in_its_space(picture: Picture, profile: bytes) -> Picture:
    if picture.grey:
        found = srgb_to_grey(picture.colour[..., 0], profile)
        colour = np.broadcast_to(found.pixels[..., None], picture.colour.shape)
    elif profile[16:20] == b"RGB ":
        found = srgb_to_rgb(picture.colour, profile)
        colour = found.pixels
    else:
        warning = "the result stays in sRGB: it has colour, and its profile is for grey"
        return replace(picture, warnings=(*picture.warnings, warning))
    return replace(
        picture,
        colour=colour,
        profile=found.profile,
        warnings=(*picture.warnings, *found.warnings),
    )
