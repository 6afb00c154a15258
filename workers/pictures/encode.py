"""Pixels to bytes: the format that the client chose, untagged and so sRGB, without metadata."""

from io import BytesIO

import numpy as np
from PIL import Image

from workers.contract.headers import ResultFormat, check_result
from workers.pictures.picture import Picture
from workers.pictures.png import encode_png

_FULL_COLOUR_QUALITY = 90  # from here on JPEG keeps colour at full resolution
_MAX_JPEG_DPI = 65_535


def encode(
    picture: Picture,
    *,
    format: ResultFormat,  # noqa: A002 - the word that the API uses
    quality: int,
) -> bytes:
    """Write a picture; `quality` (1 to 100) counts for JPEG and WebP.

    Grey stays grey where the format has it; dots per inch are kept in PNG and JPEG.

    Raises:
        ResultTooLarge: a side passes the format's limit.
        AlphaNotStorable: JPEG for a picture with an alpha channel.
    """
    check_result(
        width=picture.width,
        height=picture.height,
        format=format,
        has_alpha=picture.alpha is not None,
    )
    match format:
        case ResultFormat.PNG:
            return encode_png(picture)
        case ResultFormat.JPEG:
            return _encode_jpeg(picture, quality)
        case ResultFormat.WEBP:
            return _encode_webp(picture, quality)


def _encode_jpeg(picture: Picture, quality: int) -> bytes:
    pixels = np.ascontiguousarray(picture.colour[..., 0]) if picture.grey else picture.colour
    file = BytesIO()
    Image.fromarray(pixels).save(
        file,
        "JPEG",
        quality=quality,
        subsampling="4:4:4" if quality >= _FULL_COLOUR_QUALITY else "4:2:0",
        dpi=tuple(min(dots, _MAX_JPEG_DPI) for dots in picture.dpi or (0, 0)),
    )
    return file.getvalue()


def _encode_webp(picture: Picture, quality: int) -> bytes:
    image = Image.fromarray(picture.colour)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    file = BytesIO()
    image.save(file, "WEBP", quality=quality)
    return file.getvalue()
