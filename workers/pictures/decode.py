"""Bytes to pixels: 8-bit sRGB the right way up, whatever kind of picture was sent.

Promises: only the codec of the format that the content shows is tried; nothing larger than the
limit is decoded; whatever is wrong with the bytes ends in a `GDSRError`, never in half a picture,
as far as the format allows to tell (a JPEG can lose its middle without a trace).

Letters: H x W the picture's pixels.
"""

import logging
import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFile, TiffImagePlugin, UnidentifiedImageError

from workers.contract.errors import ImageCorrupt, ImageRejected
from workers.contract.formats import unsupported
from workers.contract.headers import ColourKind, ImageFormat, ImageHeader, check_header, read_header
from workers.pictures.colour import cmyk_to_srgb, grey_curve, rgb_to_srgb
from workers.pictures.picture import Picture, Plane
from workers.pictures.png import checked_png, deep_grey_alpha_as_rgba

logger = logging.getLogger(__name__)


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """Decode a picture.

    Raises:
        ImageMissing, ImageUnsupported, ImageCorrupt: as `read_header`, or the pixels are damaged.
        ImageTooLarge, ImageAnimated, ColourTooDeep: as `check_header`.
        MemoryError: there is no memory for the pixels.
    """
    header = read_header(BytesIO(data))
    check_header(header, max_pixels=max_pixels)
    deep_alpha = None
    if header.format is ImageFormat.PNG:
        data = checked_png(data)
        deep_alpha = deep_grey_alpha_as_rgba(data)
    opened = _open(deep_alpha or data, header, max_pixels=max_pixels)
    if header.kind is ColourKind.GREY or opened.is_grey:
        levels, alpha = _deep_grey_alpha(opened) if deep_alpha else _grey(opened, header)
        curve = grey_curve(opened.profile)
        levels = levels if curve is None else curve[levels]
        colour = np.stack((levels, levels, levels), axis=-1)  # (H, W, 3)
        return Picture(colour=colour, alpha=alpha, grey=True, dpi=opened.dpi)
    colour, alpha = _colour(opened, header)
    return Picture(colour=colour, alpha=alpha, dpi=opened.dpi)


class _Opened(NamedTuple):
    """What Pillow made of the bytes."""

    #: The right way up, palettes resolved.
    image: Image.Image
    #: Stored without colour, or with a palette of greys only.
    is_grey: bool
    #: Of the samples, before any other look at them: zero is white.
    is_negative: bool
    dpi: tuple[float, float] | None

    @property
    def profile(self) -> bytes | None:
        profile = self.image.info.get("icc_profile")
        return profile if isinstance(profile, bytes) else None


def _open(data: bytes, header: ImageHeader, *, max_pixels: int) -> _Opened:
    """Let Pillow decode, and turn whatever it raises for bad bytes into our errors."""
    is_tiff = header.format is ImageFormat.TIFF
    try:
        with _strict_pillow(max_pixels):
            image: Image.Image = Image.open(BytesIO(data), formats=(header.format.upper(),))
            if sorted(image.size) != sorted((header.width, header.height)):
                raise ImageCorrupt("its header contradicts itself")
            is_negative = _is_deep_negative(image)
            # Pillow turns a TIFF while it loads it, and forgets by how much. Everything else is
            # loaded first: asking for EXIF loads a PNG, and that must not fail unseen.
            orientation = _orientation(image) if is_tiff else 1
            image.load()
            if not is_tiff:
                orientation = _orientation(image)
                if orientation in _TURNS:
                    image = image.transpose(_TURNS[orientation])
            is_grey = image.mode in ("1", "L", "LA") or _has_grey_palette(image)
            if image.mode in ("P", "PA"):
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except _BAD_BYTES as error:
        raise _refusal(error, header) from error
    dpi = _dpi(image, swapped=orientation >= _FIRST_SIDEWAYS)
    return _Opened(image, is_grey, is_negative, dpi)


#: What Pillow raises for bytes that it cannot read.
_BAD_BYTES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
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


_ORIENTATION_TAG = 0x0112
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


def _orientation(image: Image.Image) -> int:
    """How the picture was held, 1 to 8; 1 (upright) where EXIF is missing or broken."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except _BAD_BYTES as error:
        logger.warning("ignored broken EXIF data: %s", type(error).__name__)
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _dpi(image: Image.Image, *, swapped: bool) -> tuple[float, float] | None:
    """Dots per inch, if they are a pair of sensible numbers."""
    try:
        across, down = (float(dots) for dots in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # 1 is what Pillow says of a TIFF without resolution.
    if not all(math.isfinite(dots) and 1 < dots < 2**16 for dots in (across, down)):
        return None
    return (down, across) if swapped else (across, down)


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
        samples = np.asarray(image)
        levels = _to_8_bits(samples, bits=header.bits)
        if opened.is_negative:
            levels = 255 - levels
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
        alpha = np.where(samples == clear, 0, 255).astype(np.uint8)
    return levels, alpha


def _deep_grey_alpha(opened: _Opened) -> tuple[Plane, Plane | None]:
    """The same from bytes that were relabelled by `deep_grey_alpha_as_rgba`."""
    samples = np.asarray(opened.image).view(">u2")  # (H, W, 2)
    return _to_8_bits(samples[..., 0], bits=16), _to_8_bits(samples[..., 1], bits=16)


def _to_8_bits(samples: NDArray[np.integer], *, bits: int) -> Plane:
    full = 2**bits - 1
    scaled: NDArray[np.uint32] = samples.astype(np.uint32) * 255 + full // 2
    levels: Plane = (scaled // full).astype(np.uint8)
    return levels


def _colour(opened: _Opened, header: ImageHeader) -> tuple[Plane, Plane | None]:
    """The colours (H, W, 3) and alpha (H, W) of any other picture."""
    image = opened.image
    alpha = None
    if image.mode == "CMYK":
        if header.format is ImageFormat.JPEG and "adobe" not in image.info:
            image = ImageChops.invert(image)  # Pillow takes every JPEG for one of Adobe's
        return np.asarray(cmyk_to_srgb(image, opened.profile)), None
    if image.mode not in ("RGB", "RGBA", "RGBX", "YCbCr"):
        raise unsupported(f"a {header.format.upper()} of a rare kind of colour")
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"))
    elif isinstance(clear := image.info.get("transparency"), tuple):
        stored = np.asarray(image)
        matches = [stored[..., channel] == clear[channel] for channel in range(3)]
        alpha = np.where(matches[0] & matches[1] & matches[2], 0, 255).astype(np.uint8)
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(rgb_to_srgb(rgb, opened.profile)), alpha
