"""Applies the client's choices to a picture before it is stored."""

from dataclasses import replace

from workers.contract.images.formats import ResultFormat, check_result
from workers.contract.images.options import (
    SCALE,
    DepthMode,
    MetadataMode,
    PictureChoices,
    ProfileMode,
)
from workers.pictures.colour.alpha import flattened
from workers.pictures.colour.profiles import is_for_grey, without_grey_profile
from workers.pictures.exif import exif_bytes, read_exif
from workers.pictures.metadata import (
    INCH,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    Metadata,
)
from workers.pictures.picture import Picture, with_bits
from workers.pictures.reduce import reduced, reduced_mask
from workers.pictures.xmp import marked

#: Formats with a field for the dots per inch.
_WITH_DPI = (ResultFormat.PNG, ResultFormat.JPEG, ResultFormat.TIFF)
#: Formats in which readers look for IPTC's records.
_WITH_IPTC = (ResultFormat.JPEG, ResultFormat.TIFF)


def preprocess(picture: Picture, choices: PictureChoices, result: ResultFormat) -> Picture:
    """Convert the decoded picture to the bit depth of its result.

    Raises:
        ScaleTooLarge: it is not large enough for the size that was chosen.
        ResultTooLarge: the result would be too large for its format.
        AlphaNotStorable: it is transparent, its result cannot be, and no background was chosen.
    """
    width, height = choices.result_size(width=picture.width, height=picture.height)
    is_transparent = picture.alpha is not None and choices.background is None
    check_result(width=width, height=height, format=result, has_alpha=is_transparent)
    keeps = choices.metadata is MetadataMode.KEEP
    if picture.metadata.iptc and keeps and result not in _WITH_IPTC:
        warning = f"left out the IPTC data: {result} has no place for it (its XMP is kept)"
        metadata = picture.metadata._replace(iptc=None)
        picture = replace(picture, metadata=metadata, warnings=(*picture.warnings, warning))
    wanted = picture.bits if choices.depth is DepthMode.SAME else int(choices.depth)
    return with_bits(picture, min(wanted, result.max_bits))


def postprocess(picture: Picture, choices: PictureChoices) -> Picture:
    """Bring the upscaled picture (four times larger) to the chosen size and background, and drop
    the metadata that was not to be kept.

    Raises:
        ScaleTooLarge: it is not large enough for the size that was chosen.
    """
    width, height = choices.result_size(
        width=picture.width // SCALE, height=picture.height // SCALE
    )
    picture = reduced(picture, width=width, height=height)
    if choices.background is not None and picture.alpha is not None:
        picture = flattened(_in_colour_space_for(picture, choices.background), choices.background)
    if picture.grey and picture.profile is not None and not is_for_grey(picture.profile):
        picture = replace(picture, grey=False)  # readers ignore a profile for RGB in a grey file
    if choices.metadata is MetadataMode.STRIP:
        told = tuple(text for text in picture.warnings if text not in picture.metadata.warnings)
        picture = replace(picture, metadata=Metadata(), warnings=told)
    if choices.icc is ProfileMode.KEEP and picture.was_cmyk:
        warning = "the result is in sRGB: a CMYK picture becomes RGB, its profile does not fit"
        return replace(picture, warnings=(*picture.warnings, warning))
    return picture


def marked_as_made(picture: Picture, *, trade_off: float) -> Picture:
    """Mark the picture's XMP as altered by an algorithm or, if the crisp branch has a share in it,
    as made in part by a trained model.
    """
    xmp = marked(picture.metadata.xmp, invented=trade_off > 0)
    return replace(picture, metadata=picture.metadata._replace(xmp=xmp))


def printed_at(picture: Picture, dpi: int, result: ResultFormat) -> Picture:
    """Set the dots per inch, in EXIF if the format has no field for them."""
    picture = replace(picture, dpi=(dpi, dpi))
    if result in _WITH_DPI:
        return picture
    exif = read_exif(picture.metadata.exif)
    tags = dict.fromkeys((X_RESOLUTION, Y_RESOLUTION), exif.rational(dpi))
    tags[RESOLUTION_UNIT] = exif.shorts(INCH)
    data = exif_bytes(exif._replace(tags=exif.tags | tags))
    return replace(picture, metadata=picture.metadata._replace(exif=data))


def postprocess_mask(mask: Picture, choices: PictureChoices) -> Picture:
    """Bring an upscaled mask (four times larger) to the chosen size; its levels are not light.

    Raises:
        ScaleTooLarge: it is not large enough for that size.
    """
    width, height = choices.result_size(width=mask.width // SCALE, height=mask.height // SCALE)
    return reduced_mask(mask, width=width, height=height)


def _in_colour_space_for(picture: Picture, background: str) -> Picture:
    """Convert the picture to sRGB if its space is for grey and the background has colour."""
    is_grey = background[1:3] == background[3:5] == background[5:7]
    converted = picture if is_grey else without_grey_profile(picture)
    if converted is picture:
        return picture
    warning = "the result is in sRGB: its background has colour, and its profile is for grey"
    return replace(converted, warnings=(*picture.warnings, warning))
