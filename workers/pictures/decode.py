"""Bytes to pixels: sRGB of 8 or 16 bits, the right way up, whatever kind of picture was sent.

Promises: only the codec of the format that the content shows is tried; nothing larger than the
limit is decoded; whatever is wrong with the bytes ends in a `GDSRError`, never in half a picture,
as far as the format allows to tell (a JPEG can lose its middle without a trace).

Letters: H x W the picture's pixels.
"""

import re
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageFile, TiffImagePlugin, UnidentifiedImageError

from workers.contract.errors import FrameMissing, ImageCorrupt, ImageRejected
from workers.contract.formats import unsupported
from workers.contract.headers import ColourKind, ImageFormat, ImageHeader, check_header, read_header
from workers.contract.nested_headers import tiff_page_number
from workers.pictures.colour import Converted, cmyk_to_srgb, grey_to_srgb, rgb_to_srgb
from workers.pictures.deep import ask_for_low_bytes
from workers.pictures.frames import Layer, apng_layers, composed, gif_layers
from workers.pictures.metadata import BROKEN, Metadata, read_dpi, read_metadata, read_orientation
from workers.pictures.picture import Picture, Plane, scaled
from workers.pictures.png import checked_png, deep_grey_alpha_as_rgba


def decode(data: bytes, *, max_pixels: int, frame: int | None = None) -> Picture:
    """Decode a picture, or one frame or page of it, counted from 0.

    Raises:
        ImageMissing, ImageUnsupported, ImageCorrupt: as `read_header`, or the pixels are damaged.
        ImageTooLarge, ImageAnimated, FrameMissing, ColourTooDeep: as `check_header`.
        MemoryError: there is no memory for the pixels.
    """
    header = read_header(BytesIO(data), frame=frame)
    check_header(header, max_pixels=max_pixels, frame=frame)
    if header.format is ImageFormat.GIF:
        layers = gif_layers(data, frame=frame or 0)
        if len(layers) > 1 or not layers[0].covers(header.width, header.height):
            return _composed(layers, header, max_pixels=max_pixels)
        data = b"".join(layers[0].parts)
    elif header.format is ImageFormat.PNG and header.frames != 1:
        layers = apng_layers(data, frame=frame or 0)
        return _composed(layers, header, max_pixels=max_pixels)
    return _still(data, header, max_pixels=max_pixels, frame=frame or 0)


def _composed(layers: Sequence[Layer], header: ImageHeader, *, max_pixels: int) -> Picture:
    def still(file: bytes) -> Picture:
        return _still(file, read_header(BytesIO(file)), max_pixels=max_pixels)

    picture = composed(layers, still, width=header.width, height=header.height)
    alpha = picture.alpha
    if not header.has_alpha and alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        return replace(picture, alpha=None)
    return picture


def _still(data: bytes, header: ImageHeader, *, max_pixels: int, frame: int = 0) -> Picture:
    deep_alpha = None
    if header.format is ImageFormat.PNG:
        data = checked_png(data)
        deep_alpha = deep_grey_alpha_as_rgba(data)
    opened = _open(deep_alpha or data, header, max_pixels=max_pixels, frame=frame)
    grey = header.kind is ColourKind.GREY or opened.is_grey
    if grey:
        levels, alpha = _deep_grey_alpha(opened) if deep_alpha else _grey(opened, header)
        found = grey_to_srgb(levels, opened.profile)
        colour: Plane = np.broadcast_to(found.pixels[..., None], (*levels.shape, 3))
    elif header.bits > 8:
        low = _open(data, header, max_pixels=max_pixels, frame=frame, low_bytes=True)
        found, alpha = _deep_colour(opened, low)
        colour = found.pixels
    else:
        found, alpha = _colour(opened, header)
        colour = found.pixels
    return Picture(
        colour=colour,
        alpha=alpha,
        grey=grey,
        dpi=opened.dpi,
        source_profile=found.profile,
        metadata=opened.metadata,
        warnings=(*opened.metadata.warnings, *found.warnings),
    )


class _Opened(NamedTuple):
    """What Pillow made of the bytes."""

    #: The right way up, palettes resolved.
    image: Image.Image
    #: Stored without colour, or with a palette of greys only.
    is_grey: bool
    #: Of the samples, before any other look at them: zero is white.
    is_negative: bool
    dpi: tuple[float, float] | None
    metadata: Metadata

    @property
    def profile(self) -> bytes | None:
        profile = self.image.info.get("icc_profile")
        return profile if isinstance(profile, bytes) else None


def _open(
    data: bytes, header: ImageHeader, *, max_pixels: int, frame: int, low_bytes: bool = False
) -> _Opened:
    """Let Pillow decode, and turn whatever it raises for bad bytes into our errors.

    Of colour of 16 bits it keeps the high bytes, or `low_bytes`.
    """
    is_tiff = header.format is ImageFormat.TIFF
    try:
        with _strict_pillow(max_pixels):
            image: Image.Image = Image.open(BytesIO(data), formats=(header.format.upper(),))
            if header.frames != 1:
                _seek(image, data, header, frame)
            if sorted(image.size) != sorted((header.width, header.height)):
                raise ImageCorrupt("its header contradicts itself")
            is_negative = _is_deep_negative(image)
            if low_bytes:
                ask_for_low_bytes(image)
            # Pillow turns a TIFF while it loads it, and forgets by how much. Everything else is
            # loaded first: asking for EXIF loads a PNG, and that must not fail unseen.
            orientation = read_orientation(image) if is_tiff else 1
            image.load()
            metadata = Metadata() if low_bytes else read_metadata(image)
            if not is_tiff:
                orientation = read_orientation(image)
                if orientation in _TURNS:
                    image = image.transpose(_TURNS[orientation])
            is_grey = image.mode in ("1", "L", "LA") or _has_grey_palette(image)
            if image.mode in ("P", "PA"):
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except _BAD_BYTES as error:
        raise _refusal(error, header) from error
    dpi = read_dpi(image, swapped=orientation >= _FIRST_SIDEWAYS)
    return _Opened(image, is_grey, is_negative, dpi, metadata)


def _seek(image: Image.Image, data: bytes, header: ImageHeader, frame: int) -> None:
    if header.format is ImageFormat.TIFF:
        frame = tiff_page_number(BytesIO(data), frame=frame)
    elif frame >= (frames := getattr(image, "n_frames", 1)):
        raise FrameMissing(frame=frame, frames=frames)
    image.seek(frame)


#: What Pillow raises for bytes that it cannot read.
_BAD_BYTES = (
    *BROKEN,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_QUOTABLE = re.compile(r"[A-Za-z0-9 ,.;:'()-]{3,80}")


def _refusal(error: Exception, header: ImageHeader) -> ImageRejected:
    """Say in our words what Pillow means; quote it where it names no addresses or paths."""
    text = str(error)
    if "out of memory" in text:
        raise MemoryError(text) from error
    # Pillow knows a TIFF by its list of known combinations of tags.
    unknown = isinstance(error, UnidentifiedImageError) and header.format is ImageFormat.TIFF
    if unknown or "unsupported" in text.lower():
        return unsupported(f"a {header.format.upper()} of a rare kind")
    if "truncated" in text.lower():
        return ImageCorrupt("it ends too early")
    detail = f" ({text})" if _QUOTABLE.fullmatch(text) and "0x" not in text else ""
    return ImageCorrupt(f"its {header.format.upper()} data is damaged{detail}")


#: Pillow's limits and Python's warning filters belong to the process: one decode at a time.
_PILLOW = threading.Lock()


@contextmanager
def _strict_pillow(max_pixels: int) -> Iterator[None]:
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that is dropped anyway
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limit, truncated


_FIRST_SIDEWAYS = 5
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _is_deep_negative(image: Image.Image) -> bool:
    """Whether zero is white in a 16-bit TIFF; Pillow minds that at fewer bits only."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    return image.mode.startswith("I;16") and not image.tag_v2.get(262, 1)


def _has_grey_palette(image: Image.Image) -> bool:
    if image.mode not in ("P", "PA"):
        return False
    palette = image.getpalette("RGB") or []
    return palette[0::3] == palette[1::3] == palette[2::3]


def _grey(opened: _Opened, header: ImageHeader) -> tuple[Plane, Plane | None]:
    """The levels and alpha of a grey picture, (H, W) each."""
    image = opened.image
    alpha = None
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint16)
        levels = scaled(samples, header.bits, 16)
        if opened.is_negative:
            levels = 65535 - levels
    elif image.mode in ("1", "L", "LA", "La", "RGB", "RGBA"):
        if image.mode in ("1", "La"):
            image = image.convert({"1": "L", "La": "LA"}[image.mode])
        samples = levels = np.asarray(image.getchannel(0))
        if image.mode in ("LA", "RGBA"):
            alpha = np.asarray(image.getchannel("A"))
    else:
        raise unsupported(f"a {header.format.upper()} of a rare kind of grey")
    if isinstance(clear := image.info.get("transparency"), int):
        # PNG says which grey is transparent, in the file's own depth.
        clear *= 255 // (2**header.bits - 1) if header.bits in (2, 4) else 1
        alpha = np.where(samples == clear, 0, np.iinfo(levels.dtype).max).astype(levels.dtype)
    return levels, alpha


def _deep_grey_alpha(opened: _Opened) -> tuple[Plane, Plane | None]:
    """The same from bytes that were relabelled by `deep_grey_alpha_as_rgba`."""
    samples = np.asarray(opened.image).view(">u2").astype(np.uint16)  # (H, W, 2)
    return samples[..., 0], samples[..., 1]


def _deep_colour(high: _Opened, low: _Opened) -> tuple[Converted, Plane | None]:
    """The colours and alpha of a picture of 16 bits that was read by halves."""
    if high.image.mode not in ("RGB", "RGBA"):
        raise unsupported("a picture of 16 bits of a rare kind of colour")
    samples = np.asarray(high.image).astype(np.uint16)
    samples <<= 8
    samples |= np.asarray(low.image)
    alpha = None
    if high.image.mode == "RGBA":
        alpha = samples[..., 3]
    elif isinstance(clear := high.image.info.get("transparency"), tuple):
        alpha = np.where((samples == clear).all(axis=-1), 0, 65535).astype(np.uint16)
    return rgb_to_srgb(samples[..., :3], high.profile), alpha


def _colour(opened: _Opened, header: ImageHeader) -> tuple[Converted, Plane | None]:
    """The colours (H, W, 3) and alpha (H, W) of any other picture."""
    image = opened.image
    alpha = None
    if image.mode == "CMYK":
        if header.format is ImageFormat.JPEG and "adobe" not in image.info:
            image = ImageChops.invert(image)  # Pillow takes every JPEG for one of Adobe's
        return cmyk_to_srgb(image, opened.profile), None
    if image.mode not in ("RGB", "RGBA", "RGBX", "YCbCr"):
        raise unsupported(f"a {header.format.upper()} of a rare kind of colour")
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"))
    elif isinstance(clear := image.info.get("transparency"), tuple):
        stored = np.asarray(image)
        matches = [stored[..., channel] == clear[channel] for channel in range(3)]
        alpha = np.where(matches[0] & matches[1] & matches[2], 0, 255).astype(np.uint8)
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return rgb_to_srgb(np.asarray(rgb), opened.profile), alpha
