"""A picture's bytes through Pillow: only the codec of its own format, and no surprises after."""

import re
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from workers.contract.errors import FrameMissing, ImageCorrupt, ImageRejected
from workers.contract.images.formats import ImageFormat, ImageHeader, unsupported
from workers.contract.images.jxl import jxl_xmp
from workers.contract.images.tiff_and_avif import tiff_page_number
from workers.pictures.bmp import bmp_image
from workers.pictures.extras import installed, make_ready
from workers.pictures.metadata import (
    BROKEN,
    Metadata,
    read_dpi,
    read_metadata,
    read_orientation,
    without_xmp,
)

#: Of 16-bit samples in Pillow's names of layouts: the other order of bytes.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "L" if sys.byteorder == "big" else "B"}


class Opened(NamedTuple):
    """A picture as Pillow decoded it."""

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


def open_picture(
    data: bytes, header: ImageHeader, *, max_pixels: int, frame: int, low_bytes: bool = False
) -> Opened:
    """Let Pillow decode, and turn whatever it raises for bad bytes into our errors.

    Of colour of 16 bits it keeps the high bytes, or `low_bytes`.
    """
    is_tiff = header.format is ImageFormat.TIFF
    try:
        with _strict_pillow(max_pixels):
            make_ready(header.format)
            name = _PILLOW_NAMES.get(header.format, header.format.upper())
            image = bmp_image(data) if header.format is ImageFormat.BMP else None
            image = image or Image.open(BytesIO(data), formats=(name,))
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
            with without_xmp(image):  # of a TIFF; others get theirs while they are loaded
                image.load()
            if header.format is ImageFormat.JXL and (xmp := jxl_xmp(BytesIO(data))):
                image.info["xmp"] = xmp
            metadata = Metadata() if low_bytes else read_metadata(image)
            if not is_tiff and not _is_upright(image, header):
                orientation = read_orientation(image)
                if orientation in _TURNS:
                    image = image.transpose(_TURNS[orientation])
            if is_tiff:
                _widen_palette(image)
            is_grey = image.mode in ("1", "L", "LA") or _has_grey_palette(image)
            if image.mode in ("P", "PA"):
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except _BAD_BYTES as error:
        raise _refusal(error, header) from error
    dpi = read_dpi(image, swapped=orientation >= _FIRST_SIDEWAYS)
    return Opened(image, is_grey, is_negative, dpi, metadata)


def load_codecs() -> None:
    """Import what Pillow imports when it opens a first picture, before jobs are forked."""
    Image.init()
    for name in installed():
        make_ready(name)


_PILLOW_NAMES = {ImageFormat.HEIC: "HEIF"}


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


def _is_upright(image: Image.Image, header: ImageHeader) -> bool:
    """JPEG XL says in its own header how it was held, and its library minds that; EXIF does not
    count there (ISO/IEC 18181-2), except in a JPEG that was packed as it is.
    """
    return header.format is ImageFormat.JXL and not getattr(image, "jpeg", False)


def _is_deep_negative(image: Image.Image) -> bool:
    """Whether zero is white in a 16-bit TIFF; Pillow minds that at fewer bits only."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    return image.mode.startswith("I;16") and not image.tag_v2.get(262, 1)


def _widen_palette(image: Image.Image) -> None:
    """Some writers give a TIFF's colours in 8 bits of the 16 that they have; Pillow takes the high
    byte. libtiff's own tools look for that too.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode != "P":
        return
    colours = image.tag_v2.get(320, (0,))
    if 0 < max(colours) < 256:
        count = len(colours) // 3
        rgb = zip(colours[:count], colours[count : 2 * count], colours[2 * count :], strict=True)
        image.putpalette([level for colour in rgb for level in colour])


def _has_grey_palette(image: Image.Image) -> bool:
    if image.mode not in ("P", "PA"):
        return False
    palette = image.getpalette("RGB") or []
    return palette[0::3] == palette[1::3] == palette[2::3]


def ask_for_low_bytes(image: Image.Image) -> None:
    """Make Pillow, which keeps the high byte of each 16-bit sample, keep the low one.

    It unfilters and decompresses whole samples, and drops a byte only when it unpacks them: told
    that their bytes are in the other order, it drops the other one.
    """
    if not isinstance(image, ImageFile.ImageFile):
        raise unsupported("a picture of a rare kind")
    image.tile = [
        part._replace(args=(_other_order(part.args[0]), *part.args[1:]))
        if isinstance(part.args, tuple)
        else part._replace(args=_other_order(part.args))
        for part in image.tile
    ]


def _other_order(layout: object) -> str:
    if not isinstance(layout, str) or layout[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16"):
        raise unsupported("a picture of 16 bits of a rare kind")
    return layout[:-1] + _OTHER_ORDER[layout[-1]]
