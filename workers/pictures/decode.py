"""Decodes pictures of every kind to 8 or 16 bits, upright, in sRGB or in their own colour space.

Guarantees: only the codec of the format that the content shows is tried; nothing larger than the
limit is decoded; damaged bytes end in a `GDSRError`, never in half a picture, as far as the format
can tell (a JPEG can lose its middle without a trace).

Letters: H x W the picture's pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np

from workers.contract.errors import CUT_OFF, ImageCorrupt
from workers.contract.images.formats import (
    EXTRA_FORMATS,
    ColourKind,
    ImageFormat,
    ImageHeader,
    check_header,
    library_missing,
    unsupported,
)
from workers.contract.images.headers import read_header
from workers.contract.images.jxl import jxl_box
from workers.contract.images.options import ProfileMode, TruncatedMode
from workers.contract.images.tiff_and_avif import has_other_pictures, with_primary
from workers.pictures.colour.profiles import Converted, cmyk_to_srgb, grey_to_srgb, rgb_to_srgb
from workers.pictures.colour.tagged import Tagged, adobe_rgb, of_cicp, of_png
from workers.pictures.extras import installed
from workers.pictures.formats.jpeg import ended, lacks_data, with_end
from workers.pictures.formats.png import checked_png
from workers.pictures.formats.webp import grey_where_unequal, lengthened_webp
from workers.pictures.frames import Layer, apng_layers, composed, gif_layers, has_separate_still
from workers.pictures.opening import Opened, open_picture, with_png_metadata
from workers.pictures.picture import Picture, Plane


def decode(
    data: bytes,
    *,
    max_pixels: int,
    frame: int | None = None,
    icc: ProfileMode = ProfileMode.SRGB,
    truncated: TruncatedMode = TruncatedMode.REFUSE,
) -> Picture:
    """Decode a picture, or one frame or page of it, counted from 0.

    A picture whose pixels are all opaque gets no alpha.

    With `ProfileMode.KEEP`, the pixels stay in the space of the picture's own profile, so that no
    colours outside sRGB are lost. With `TruncatedMode.FILL`, a picture may be truncated.

    Raises:
        ImageMissing, ImageUnsupported, ImageCorrupt: as `read_header`, or the pixels are damaged.
        ImageTooLarge, ImageAnimated, FrameMissing, ColourTooDeep: as `check_header`.
        MemoryError: there is no memory for the pixels.
    """
    options = _Options(max_pixels, frame, icc)
    try:
        picture = _decoded(data, options)
    except ImageCorrupt as damaged:
        if CUT_OFF not in str(damaged):
            raise
        picture = _decoded(data, options._replace(fill=True))  # fails if there is nothing to fill
        if truncated is TruncatedMode.REFUSE:
            raise
        warning = "filled what is missing: the picture ends too early"
        picture = replace(picture, warnings=(*picture.warnings, warning))
    alpha = picture.alpha
    if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        return replace(picture, alpha=None)
    return picture


class _Options(NamedTuple):
    """Options of decoding a picture."""

    max_pixels: int
    frame: int | None
    icc: ProfileMode
    #: True if it may be truncated.
    fill: bool = False


def _decoded(data: bytes, options: _Options) -> Picture:
    header = read_header(BytesIO(data), frame=options.frame)
    check_header(header, max_pixels=options.max_pixels, frame=options.frame)
    if header.format in EXTRA_FORMATS and header.format not in installed():
        raise library_missing(header.format)
    if header.format is ImageFormat.GIF:
        layers = gif_layers(data, frame=options.frame or 0, fill=options.fill)
        if len(layers) > 1 or not layers[0].covers(header.width, header.height):
            return _composed(layers, header, options)
        data = b"".join(layers[0].parts)
    elif header.format is ImageFormat.PNG and (header.frames != 1 or has_separate_still(data)):
        layers = apng_layers(data, frame=options.frame or 0)
        return with_png_metadata(_composed(layers, header, options), data)
    return _still(data, header, options)


def _composed(layers: Sequence[Layer], header: ImageHeader, options: _Options) -> Picture:
    def still(file: bytes) -> Picture:
        return _still(file, read_header(BytesIO(file)), options._replace(frame=None))

    return composed(layers, still, width=header.width, height=header.height)


def _still(data: bytes, header: ImageHeader, options: _Options) -> Picture:
    spaces: list[Tagged] = []
    dropped: tuple[str, ...] = ()
    if header.format is ImageFormat.PNG:
        data, colour_chunks, dropped = checked_png(data, fill=options.fill)
        spaces += [of_png(colour_chunks)] if colour_chunks else []
    elif header.format in (ImageFormat.AVIF, ImageFormat.HEIC) and (whole := with_primary(data)):
        data, dropped = whole, ("read the first picture: the one named as primary is missing",)
    if header.has_gain_map or _has_gain_map(data, header.format):
        dropped = (*dropped, "left out the gain map: the result is of standard dynamic range")
    if header.has_other_channels:
        dropped = (*dropped, "left out the channels beyond colour and transparency")
    if header.has_mask:
        dropped = (*dropped, "left out the transparency mask")
    if header.format is ImageFormat.HEIC and has_other_pictures(data):
        dropped = (*dropped, "left out the other pictures of the file")
    opened = _opened(data, header, options)
    if opened.profile:
        spaces.insert(0, Tagged(opened.profile))
    if header.cicp is not None:
        spaces.insert(0, of_cicp(*header.cicp))
    spaces.append(adobe_rgb() if opened.metadata.is_adobe_rgb else Tagged())
    grey = header.kind is ColourKind.GREY or opened.is_grey
    keep = options.icc is ProfileMode.KEEP
    if grey:
        levels, alpha = _grey(opened, header)
        found = _converted(spaces, partial(grey_to_srgb, levels, keep=keep))
        colour: Plane = np.broadcast_to(found.pixels[..., None], (*levels.shape, 3))
    else:
        pixels, alpha = _colour(opened, header)
        if header.kind is ColourKind.CMYK:
            found = _converted(spaces, partial(cmyk_to_srgb, pixels))
        else:
            found = _converted(spaces, partial(rgb_to_srgb, pixels, keep=keep))
        colour = found.pixels
    return Picture(
        colour=colour,
        alpha=alpha,
        grey=grey,
        was_cmyk=header.kind is ColourKind.CMYK,
        dpi=opened.dpi,
        profile=found.profile,
        metadata=opened.metadata,
        warnings=(*dropped, *opened.metadata.warnings, *found.warnings),
    )


def _converted(spaces: Sequence[Tagged], convert: Callable[[bytes | None], Converted]) -> Converted:
    """Convert from the first of the spaces that is neither broken nor unknown, else not at all."""
    warnings: tuple[str, ...] = ()
    for space in spaces:
        found = convert(space.profile)
        ignored = (*space.warnings, *found.warnings)
        warnings += ignored
        if not ignored:
            break
    return found._replace(warnings=warnings)


#: Strings that show a gain map of Ultra HDR, ISO 21496-1 or Apple.
_GAIN_MAPS = (b"hdrgm:Version", b"urn:iso:std:iso:ts:21496:-1", b"HDRGainMapVersion")


def _has_gain_map(data: bytes, name: ImageFormat) -> bool:
    """True if a JPEG or JPEG XL has a gain map, with which screens show it brighter."""
    if name is ImageFormat.JXL:
        return jxl_box(BytesIO(data), b"jhgm") is not None
    return name is ImageFormat.JPEG and any(words in data for words in _GAIN_MAPS)


def _opened(data: bytes, header: ImageHeader, options: _Options) -> Opened:
    open_this = partial(
        open_picture,
        header=header,
        max_pixels=options.max_pixels,
        frame=options.frame or 0,
        fill=options.fill,
    )
    if options.fill and header.format is ImageFormat.JPEG:
        return open_this(ended(data))
    if options.fill and header.format is ImageFormat.WEBP:
        found, other = (open_this(lengthened_webp(data, byte, header)) for byte in (b"\0", b"U"))
        return found._replace(image=grey_where_unequal(found.image, other.image))
    if header.format is not ImageFormat.JPEG:
        return open_this(data)
    try:
        found = open_this(data)
    except ImageCorrupt:
        whole = with_end(data, lambda filled: open_this(filled).image)
        if whole is None:
            raise
        return open_this(whole)
    if lacks_data(data, found.image, lambda filled: open_this(filled).image):
        raise ImageCorrupt(CUT_OFF)
    return found


def _grey(opened: Opened, header: ImageHeader) -> tuple[Plane, Plane | None]:
    """The levels and alpha of a grey picture, (H, W) each."""
    if opened.samples is not None:
        channels = opened.samples.shape[-1]
        alpha = opened.samples[..., -1] if channels in (2, 4) else None
        return opened.samples[..., 0], alpha
    image = opened.image
    alpha = None
    if image.mode not in ("1", "L", "LA", "La", "RGB", "RGBA"):
        raise unsupported(f"a {header.format.upper()} of a rare kind of grey")
    if image.mode in ("1", "La"):
        image = image.convert({"1": "L", "La": "LA"}[image.mode])
    levels: Plane = np.asarray(image.getchannel(0))
    if image.mode in ("LA", "RGBA"):
        alpha = np.asarray(image.getchannel("A"))
    if isinstance(clear := image.info.get("transparency"), int):
        # The transparent grey of a PNG is in the file's own depth.
        clear *= 255 // (2**header.bits - 1) if header.bits in (2, 4) else 1
        alpha = np.where(levels == clear, 0, 255).astype(np.uint8)
    return levels, alpha


def _colour(opened: Opened, header: ImageHeader) -> tuple[Plane, Plane | None]:
    """The colours (H, W, 3), or inks (H, W, 4), and alpha (H, W) of any other picture."""
    colours = 4 if header.kind is ColourKind.CMYK else 3
    if opened.samples is not None:
        alpha = opened.samples[..., colours] if opened.samples.shape[-1] > colours else None
        return opened.samples[..., :colours], alpha
    image = opened.image
    if image.mode == "CMYK":
        # A JPEG has 0 for full ink even without Adobe's marker: Pillow and browsers agree.
        return np.asarray(image), None
    if image.mode not in ("RGB", "RGBA", "RGBX", "YCbCr") or colours != 3:
        raise unsupported(f"a {header.format.upper()} of a rare kind of colour")
    if image.mode == "RGB" and isinstance(image.info.get("transparency"), tuple):
        image = image.convert("RGBA")  # one colour is transparent
    alpha = np.asarray(image.getchannel("A")) if image.mode == "RGBA" else None
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), alpha
