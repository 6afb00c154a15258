"""Encodes a picture in the format that the client chose, in sRGB unless it has a profile."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from workers.contract.images.formats import ResultFormat, check_result
from workers.contract.images.jxl import JXL_EXIF_OFFSET
from workers.pictures.colour.profiles import without_grey_profile
from workers.pictures.extras import make_ready
from workers.pictures.formats.png import encode_png
from workers.pictures.formats.tiff import encode_tiff
from workers.pictures.picture import Picture, with_bits

_FULL_COLOUR_QUALITY = 90  # from here on, JPEG and AVIF keep colour at full resolution
_MAX_JPEG_DPI = 65_535
_AVIF_SPEED = 8  # of 10; slower ones take several times longer for files a few percent smaller

_PREVIEW_QUALITIES, _PREVIEW_BYTES = (80, 50, 20), 750_000

_JXL_BEST = 99  # its library takes 100 as lossless, and fails
_JXL_EFFORT, _JXL_LOSSLESS_EFFORT = 4, 1  # of 9: the highest well under a second a megapixel


def encode(
    picture: Picture,
    *,
    format: ResultFormat,  # noqa: A002 - the word that the API uses
    quality: int,
    lossless: bool = False,
) -> bytes:
    """Encode a picture; `quality` (1 to 100) applies to JPEG, AVIF, and lossy WebP and JPEG XL.

    Grey and 16 bits are kept if the format has them; dots per inch are kept in PNG, JPEG and TIFF.
    The picture's profile and all of its metadata are written; a picture with a profile for grey
    becomes sRGB in WebP and AVIF, which have no grey.

    Raises:
        ResultTooLarge: a side, or the number of pixels, passes the format's limit.
        AlphaNotStorable: JPEG for a picture with an alpha channel.
        LosslessNotStorable: JPEG or AVIF without loss.
        ProfileNotStorable: JPEG XL for a picture that is not in sRGB.
        FormatNotWritten: JPEG XL, if its library is not installed.
    """
    check_result(
        width=picture.width,
        height=picture.height,
        format=format,
        has_alpha=picture.alpha is not None,
        lossless=lossless,
        has_profile=picture.profile is not None,
    )
    picture = with_bits(picture, min(picture.bits, format.max_bits))
    options: dict[str, Any]
    match format:
        case ResultFormat.PNG:
            return encode_png(picture)
        case ResultFormat.TIFF:
            return encode_tiff(picture)
        case ResultFormat.JPEG:
            return _encode_jpeg(picture, quality)
        case ResultFormat.JXL:
            return _encode_jxl(picture, quality, lossless=lossless)
        case ResultFormat.WEBP if lossless:
            # `exact` keeps the colour under transparent pixels, which must not be lost either.
            options = {"lossless": True, "exact": True, "quality": 0}
        case ResultFormat.WEBP:
            options = {"quality": quality}
        case ResultFormat.AVIF:
            options = {"quality": quality, "speed": _AVIF_SPEED, **_subsampling(quality)}
    picture = without_grey_profile(picture)
    return _saved(_image(picture), picture, format.upper(), **options)


def encode_preview(picture: Picture) -> bytes:
    """Encode a WebP preview quickly, at lower quality if it would exceed 750 kB."""
    picture = without_grey_profile(with_bits(picture, 8))
    image, data = _image(picture), b""
    for quality in _PREVIEW_QUALITIES:
        data = _saved(image, picture, "WEBP", quality=quality, method=0)
        if len(data) <= _PREVIEW_BYTES:
            break
    return data


def _encode_jpeg(picture: Picture, quality: int) -> bytes:
    pixels = np.ascontiguousarray(picture.colour[..., 0]) if picture.grey else picture.colour
    return _saved(
        Image.fromarray(pixels),
        picture,
        "JPEG",
        quality=quality,
        **_subsampling(quality),
        dpi=tuple(min(dots, _MAX_JPEG_DPI) for dots in picture.dpi or (0, 0)),
        extra=_iptc_segment(picture.metadata.iptc),
    )


def _iptc_segment(iptc: bytes | None) -> bytes:
    """Photoshop's segment with IPTC as its one resource, where readers look for it."""
    if not iptc:
        return b""
    body = b"Photoshop 3.0\0" + b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc
    body += b"\0" * (len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _encode_jxl(picture: Picture, quality: int, *, lossless: bool) -> bytes:
    make_ready(ResultFormat.JXL)
    if picture.grey:
        planes = [picture.colour[..., 0], picture.alpha]
        bands = [Image.fromarray(np.ascontiguousarray(p)) for p in planes if p is not None]
        image = bands[0] if len(bands) == 1 else Image.merge("LA", bands)
    else:
        image = _image(picture)
    return _saved(
        image,
        picture,
        "JXL",
        quality=min(quality, _JXL_BEST),
        lossless=lossless,
        effort=_JXL_LOSSLESS_EFFORT if lossless else _JXL_EFFORT,
        num_threads=0,
    )


def _subsampling(quality: int) -> dict[str, str]:
    return {"subsampling": "4:4:4" if quality >= _FULL_COLOUR_QUALITY else "4:2:0"}


def _image(picture: Picture) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture.colour))
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _saved(image: Image.Image, picture: Picture, name: str, **options: Any) -> bytes:
    """The file of an image with the picture's profile and metadata."""
    exif = picture.metadata.exif
    if exif and name == "JXL":
        exif = JXL_EXIF_OFFSET + exif  # which pillow_jxl does not write
    tags = {
        "icc_profile": picture.profile,
        "exif": exif and b"Exif\0\0" + exif,
        "xmp": picture.metadata.xmp,
    }
    file = BytesIO()
    image.save(file, name, **options, **{tag: value for tag, value in tags.items() if value})
    return file.getvalue()
