"""From the choices of a client to the picture that is to be stored."""

from dataclasses import replace

import numpy as np
from PIL import Image

from workers.contract.images.formats import ResultFormat, check_result
from workers.contract.images.options import (
    SCALE,
    DepthMode,
    MetadataMode,
    PictureChoices,
    ProfileMode,
)
from workers.pictures.alpha import laid_on
from workers.pictures.colour import Wanted, is_for_grey
from workers.pictures.metadata import Metadata
from workers.pictures.picture import Picture, with_bits
from workers.pictures.reduce import reduced, reduced_mask
from workers.pictures.xmp import marked

#: Formats with a field for the dots per inch.
_WITH_DPI = (ResultFormat.PNG, ResultFormat.JPEG, ResultFormat.TIFF)
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _INCH = 0x011A, 0x011B, 0x0128, 2


def preprocess(picture: Picture, choices: PictureChoices, result: ResultFormat) -> Picture:
    """The decoded picture in as many bits as its result is to have.

    Raises:
        ScaleTooLarge: it is not large enough for the size that was chosen.
        ResultTooLarge: the result would be too large for its format.
        AlphaNotStorable: it is transparent, its result cannot be, and no background was chosen.
    """
    width, height = choices.result_size(width=picture.width, height=picture.height)
    is_transparent = picture.alpha is not None and choices.background is None
    check_result(width=width, height=height, format=result, has_alpha=is_transparent)
    if picture.metadata.iptc and choices.metadata is MetadataMode.KEEP and not result.may_have_iptc:
        warning = f"left out the IPTC data: {result} has no place for it (its XMP is kept)"
        metadata = picture.metadata._replace(iptc=None)
        picture = replace(picture, metadata=metadata, warnings=(*picture.warnings, warning))
    wanted = picture.bits if choices.depth is DepthMode.SAME else int(choices.depth)
    return with_bits(picture, min(wanted, result.max_bits))


def postprocess(picture: Picture, choices: PictureChoices) -> Picture:
    """The picture, four times larger by now, in the size and on the background that were chosen,
    with what it is to keep.

    Raises:
        ScaleTooLarge: it is not large enough for the size that was chosen.
    """
    width, height = choices.result_size(
        width=picture.width // SCALE, height=picture.height // SCALE
    )
    picture = reduced(picture, width=width, height=height)
    if choices.background is not None and picture.alpha is not None:
        picture = laid_on(_able_to_hold(picture, choices.background), choices.background)
    if choices.metadata is MetadataMode.STRIP:
        picture = replace(picture, metadata=Metadata())
    if choices.icc is ProfileMode.KEEP and picture.was_cmyk:
        warning = "the result is in sRGB: a CMYK picture becomes RGB, its profile does not fit"
        return replace(picture, warnings=(*picture.warnings, warning))
    return picture


def marked_as_made(picture: Picture, *, trade_off: float) -> Picture:
    """The picture with a mark in its XMP that it was altered by an algorithm, or, where the crisp
    branch has a share in it, that a trained model made some of it.
    """
    xmp = marked(picture.metadata.xmp, invented=trade_off > 0)
    return replace(picture, metadata=picture.metadata._replace(xmp=xmp))


def printed_at(picture: Picture, dpi: int, result: ResultFormat) -> Picture:
    """The picture with these dots per inch, in EXIF where its format has no field for them."""
    picture = replace(picture, dpi=(dpi, dpi))
    if result in _WITH_DPI:
        return picture
    exif = Image.Exif()
    exif.load(picture.metadata.exif or b"")
    exif[_X_RESOLUTION] = exif[_Y_RESOLUTION] = float(dpi)
    exif[_RESOLUTION_UNIT] = _INCH
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    return replace(picture, metadata=picture.metadata._replace(exif=data))


def postprocess_mask(mask: Picture, choices: PictureChoices) -> Picture:
    """A mask, four times larger by now, in the size that was chosen: its levels are no light.

    Raises:
        ScaleTooLarge: it is not large enough for that size.
    """
    width, height = choices.result_size(width=mask.width // SCALE, height=mask.height // SCALE)
    return reduced_mask(mask, width=width, height=height)


def _able_to_hold(picture: Picture, background: str) -> Picture:
    """The picture; in sRGB if the background has a colour and its own space has none."""
    is_grey = background[1:3] == background[3:5] == background[5:7]
    if picture.profile is None or not is_for_grey(picture.profile) or is_grey:
        return picture
    found = Wanted(picture.profile).grey(picture.colour[..., 0])
    colour = np.broadcast_to(found.pixels[..., None], picture.colour.shape)
    warning = "the result is in sRGB: its background has colour, and its profile is for grey"
    return replace(picture, colour=colour, profile=None, warnings=(*picture.warnings, warning))
