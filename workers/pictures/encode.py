"""Pixels to bytes: the format that the client chose, in sRGB unless the picture says otherwise."""

import struct
from collections.abc import Iterable
from io import BytesIO

import numpy as np
from PIL import Image

from workers.contract.images.headers import ResultFormat, check_result
from workers.pictures.extras import make_ready
from workers.pictures.picture import Picture, with_bits
from workers.pictures.png import encode_png, png_pieces
from workers.pictures.tiff import encode_tiff

_FULL_COLOUR_QUALITY = 90  # from here on JPEG keeps colour at full resolution
_MAX_JPEG_DPI = 65_535
_AVIF_SPEED = 8  # of 10; slower ones take several times longer for files a few percent smaller

_PREVIEW_QUALITIES, _PREVIEW_BYTES = (80, 50, 20), 750_000

_JXL_BEST = 99  # its library takes 100 for without loss, and fails
_JXL_EFFORT, _JXL_LOSSLESS_EFFORT = 4, 1  # of 9: the last that take well under a second a megapixel


def encode(
    picture: Picture,
    *,
    format: ResultFormat,  # noqa: A002 - the word that the API uses
    quality: int,
    lossless: bool = False,
) -> bytes:
    """Write a picture; `quality` (1 to 100) counts for JPEG, AVIF, and unless `lossless` for WebP
    and JPEG XL.

    Grey stays grey and 16 bits stay 16 where the format has them; dots per inch are kept in PNG,
    JPEG and TIFF. Everything that the picture holds of a profile and of metadata is written.

    Raises:
        ResultTooLarge: a side, or the number of pixels, passes the format's limit.
        AlphaNotStorable: JPEG for a picture with an alpha channel.
        LosslessNotStorable: JPEG or AVIF without loss.
        ProfileNotStorable: JPEG XL for a picture that is not in sRGB.
        FormatNotWritten: JPEG XL where its library is not installed.
    """
    _check(picture, format, lossless=lossless)
    match format:
        case ResultFormat.PNG:
            return encode_png(picture)
        case ResultFormat.JPEG:
            return _encode_jpeg(with_bits(picture, 8), quality)
        case ResultFormat.WEBP:
            return _encode_webp(with_bits(picture, 8), quality, lossless=lossless)
        case ResultFormat.AVIF:
            return _encode_avif(with_bits(picture, 8), quality)
        case ResultFormat.TIFF:
            return encode_tiff(picture)
        case ResultFormat.JXL:
            return _encode_jxl(with_bits(picture, 8), quality, lossless=lossless)


def encode_preview(picture: Picture) -> bytes:
    """Write a WebP to look at, quickly: of lower quality where it would exceed 750 kB, which the
    lowest may.
    """
    image, tags = _image(with_bits(picture, 8)), _tags(picture)
    for quality in _PREVIEW_QUALITIES:
        file = BytesIO()
        image.save(file, "WEBP", quality=quality, method=0, **tags)
        if file.tell() <= _PREVIEW_BYTES:
            break
    return file.getvalue()


def encode_in_pieces(
    picture: Picture,
    *,
    format: ResultFormat,  # noqa: A002
    quality: int,
    lossless: bool = False,
) -> Iterable[bytes]:
    """As `encode`, but PNG comes bit by bit, so that some is stored while more is made."""
    if format is ResultFormat.PNG:
        _check(picture, format, lossless=lossless)
        return png_pieces(picture)
    return [encode(picture, format=format, quality=quality, lossless=lossless)]


def _check(picture: Picture, kind: ResultFormat, *, lossless: bool) -> None:
    check_result(
        width=picture.width,
        height=picture.height,
        format=kind,
        has_alpha=picture.alpha is not None,
        lossless=lossless,
        has_profile=picture.profile is not None,
    )


def _encode_jpeg(picture: Picture, quality: int) -> bytes:
    pixels = np.ascontiguousarray(picture.colour[..., 0]) if picture.grey else picture.colour
    file = BytesIO()
    Image.fromarray(pixels).save(
        file,
        "JPEG",
        quality=quality,
        subsampling="4:4:4" if quality >= _FULL_COLOUR_QUALITY else "4:2:0",
        dpi=tuple(min(dots, _MAX_JPEG_DPI) for dots in picture.dpi or (0, 0)),
        extra=_iptc_segment(picture.metadata.iptc),
        **_tags(picture),
    )
    return file.getvalue()


def _iptc_segment(iptc: bytes | None) -> bytes:
    """Photoshop's segment with one resource, which is where readers look for it."""
    if not iptc:
        return b""
    body = b"Photoshop 3.0\0" + b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc
    body += b"\0" * (len(iptc) % 2)
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _encode_webp(picture: Picture, quality: int, *, lossless: bool) -> bytes:
    file = BytesIO()
    # `exact` keeps the colour under transparent pixels, which is part of what must not be lost.
    kept = {"lossless": True, "exact": True, "quality": 0} if lossless else {"quality": quality}
    _image(picture).save(file, "WEBP", **kept, **_tags(picture))
    return file.getvalue()


def _encode_avif(picture: Picture, quality: int) -> bytes:
    file = BytesIO()
    subsampling = "4:4:4" if quality >= _FULL_COLOUR_QUALITY else "4:2:0"
    _image(picture).save(
        file, "AVIF", quality=quality, subsampling=subsampling, speed=_AVIF_SPEED, **_tags(picture)
    )
    return file.getvalue()


def _encode_jxl(picture: Picture, quality: int, *, lossless: bool) -> bytes:
    make_ready(ResultFormat.JXL)
    if picture.grey:
        planes = [picture.colour[..., 0], picture.alpha]
        bands = [Image.fromarray(np.ascontiguousarray(p)) for p in planes if p is not None]
        image = bands[0] if len(bands) == 1 else Image.merge("LA", bands)
    else:
        image = _image(picture)
    file = BytesIO()
    effort = _JXL_LOSSLESS_EFFORT if lossless else _JXL_EFFORT
    image.save(
        file,
        "JXL",
        quality=min(quality, _JXL_BEST),
        lossless=lossless,
        effort=effort,
        num_threads=0,
        **_tags(picture),
    )
    return file.getvalue()


def _image(picture: Picture) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture.colour))
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _tags(picture: Picture) -> dict[str, bytes]:
    """The metadata that Pillow writes beside the pixels."""
    exif = picture.metadata.exif
    tags = {
        "icc_profile": picture.profile,
        "exif": exif and b"Exif\0\0" + exif,
        "xmp": picture.metadata.xmp,
    }
    return {name: value for name, value in tags.items() if value}
