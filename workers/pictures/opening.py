"""A picture's bytes through Pillow: only the codec of its own format, and no surprises after."""

import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from workers.contract.errors import CUT_OFF, FrameMissing, ImageCorrupt, ImageRejected
from workers.contract.images.formats import ImageFormat, ImageHeader, unsupported
from workers.contract.images.jxl import jxl_box
from workers.contract.images.tiff_and_avif import tiff_page_number
from workers.pictures.bmp import bmp_image
from workers.pictures.extras import installed, make_ready
from workers.pictures.metadata import (
    BROKEN,
    IPTC_RESOURCE,
    IPTC_TAG,
    ORIENTATION,
    Metadata,
    read_dpi,
    read_metadata,
    read_orientation,
    without_xmp,
)
from workers.pictures.picture import Plane
from workers.pictures.samples import TiffPage, read_samples
from workers.pictures.webp import is_cut_webp

_PROFILE, _XMP, _RESOLUTION = 34675, 700, (282, 283, 296)
_NOT_IN_PILLOW = ("webp", "zstd", "lzma")
#: By the unit of a TIFF's resolution: inch, centimetre.
_DOTS_PER_INCH = {2: 1.0, 3: 2.54}


class Opened(NamedTuple):
    """A picture as its codec decoded it."""

    #: The right way up, palettes resolved.
    image: Image.Image
    #: Stored without colour, or with a palette of greys only.
    is_grey: bool
    #: Where the image does not hold what is stored: (H, W, channels), colour before alpha. The
    #: image has only what is said about it then.
    samples: Plane | None
    dpi: tuple[float, float] | None
    metadata: Metadata

    @property
    def profile(self) -> bytes | None:
        profile = self.image.info.get("icc_profile")
        return profile if isinstance(profile, bytes) else None


def open_picture(
    data: bytes, header: ImageHeader, *, max_pixels: int, frame: int, fill: bool = False
) -> Opened:
    """Let its codec decode, and turn whatever it raises for bad bytes into our errors.

    With `fill`, pixels at the end of a GIF, BMP or TIFF may be missing.
    """
    try:
        with _strict_pillow(max_pixels, fill=fill and header.format is ImageFormat.GIF):
            make_ready(header.format)
            if header.format is ImageFormat.TIFF:
                return _open_tiff(data, header, frame, fill=fill)
            if header.format is ImageFormat.BMP and fill:
                data += bytes(4 * header.pixels)
            image = bmp_image(data) if header.format is ImageFormat.BMP else None
            image = image or _pillow_image(data, header)
            if header.frames != 1:
                _seek(image, frame)
            _check_size(image, header)
            # Everything is loaded first: asking for EXIF loads a PNG, and that must not fail
            # unseen.
            image.load()
            samples = read_samples(data, header) if header.bits > 8 else None
            if header.format is ImageFormat.JXL and (xmp := jxl_box(BytesIO(data), b"xml ")):
                image.info["xmp"] = xmp
            orientation = 1 if _is_upright(image, header) else read_orientation(image)
            return _opened(image, samples, orientation)
    except _BAD_BYTES as error:
        if _is_cut(data, header, frame):
            raise ImageCorrupt(CUT_OFF) from error
        raise _refusal(error, header) from error


def _pillow_image(data: bytes, header: ImageHeader) -> ImageFile.ImageFile:
    name = _PILLOW_NAMES.get(header.format, header.format.upper())
    return Image.open(BytesIO(data), formats=(name,))


def _open_tiff(data: bytes, header: ImageHeader, frame: int, *, fill: bool) -> Opened:
    number = tiff_page_number(BytesIO(data), frame=frame)
    image = _pillow_tiff(data, header, number) if header.bits <= 8 and not fill else None
    if image is None:
        page = TiffPage(data, number)
        samples = page.samples(header, fill=fill)
        return _opened(_without_pixels(page, data), samples, page.tag(ORIENTATION))
    _check_size(image, header)
    orientation = read_orientation(image)
    with without_xmp(image):
        image.load()  # which turns it, and forgets by how much
    _widen_palette(image)
    return _opened(image, None, orientation, is_turned=True)


def _pillow_tiff(data: bytes, header: ImageHeader, number: int) -> Image.Image | None:
    """None for the kinds that Pillow does not know, or does not know all of."""
    try:
        image = _pillow_image(data, header)
        image.seek(number)
    except (UnidentifiedImageError, SyntaxError):
        return None
    # It does not convert Lab, and its wheels come without some compressions.
    rare = image.mode == "LAB" or image.info.get("compression") in _NOT_IN_PILLOW
    return None if rare else image


def _without_pixels(page: TiffPage, data: bytes) -> Image.Image:
    """The tags of a TIFF page, under the names that Pillow uses."""
    image = Image.new("L", (1, 1))
    order = ">" if data.startswith(b"MM") else "<"
    if page.offset < 2**32:
        start = data[:2] + struct.pack(order + "HI", 42, page.offset)
        image.info["exif"] = b"Exif\0\0" + start + data[8:]
    profile, xmp, iptc = (page.tag(number) for number in (_PROFILE, _XMP, IPTC_TAG))
    across, down, unit = (page.tag(number) for number in _RESOLUTION)
    if isinstance(across, tuple) and isinstance(down, tuple) and unit in _DOTS_PER_INCH:
        factor = _DOTS_PER_INCH[unit]
        image.info["dpi"] = tuple(factor * part[0] / max(part[1], 1) for part in (across, down))
    image.info |= {"icc_profile": profile, "xmp": xmp, "photoshop": {IPTC_RESOURCE: iptc}}
    return image


def _check_size(image: Image.Image, header: ImageHeader) -> None:
    if sorted(image.size) != sorted((header.width, header.height)):
        raise ImageCorrupt("its header contradicts itself")


def _opened(
    image: Image.Image, samples: Plane | None, orientation: object, *, is_turned: bool = False
) -> Opened:
    """Turn it the right way up, and ask for what is said about it."""
    dpi = read_dpi(image, swapped=orientation in _SIDEWAYS)
    metadata = read_metadata(image)
    if orientation in _TURNS and not is_turned:
        if samples is None:
            image = image.transpose(_TURNS[orientation])
        else:
            samples = _turned(samples, orientation)
    if samples is not None:
        is_grey = samples.shape[-1] <= 2
    else:
        is_grey = image.mode in ("1", "L", "LA") or _has_grey_palette(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return Opened(image, is_grey, samples, dpi, metadata)


def load_codecs() -> None:
    """Import what Pillow imports when it opens a first picture, before jobs are forked."""
    Image.init()
    for name in installed():
        make_ready(name)


_PILLOW_NAMES = {ImageFormat.HEIC: "HEIF"}


def _seek(image: Image.Image, frame: int) -> None:
    if frame >= (frames := getattr(image, "n_frames", 1)):
        raise FrameMissing(frame=frame, frames=frames)
    image.seek(frame)


#: Errors of Pillow for bytes that it cannot read.
_BAD_BYTES = (
    *BROKEN,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_FILLED = (ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.GIF, ImageFormat.BMP)
_QUOTABLE = re.compile(r"[A-Za-z0-9 ,.;:'()-]{3,80}")


def _is_cut(data: bytes, header: ImageHeader, frame: int) -> bool:
    """Whether the file is shorter than it says, where its codec does not tell."""
    if header.format is ImageFormat.WEBP:
        return header.frames == 1 and is_cut_webp(data)
    if header.format is not ImageFormat.TIFF:
        return False
    try:
        return TiffPage(data, tiff_page_number(BytesIO(data), frame=frame)).is_cut
    except BROKEN:
        return False


def _refusal(error: Exception, header: ImageHeader) -> ImageRejected:
    """Say in our words what Pillow means; quote it where it names no addresses or paths."""
    text = str(error)
    lower = text.lower()
    if "out of memory" in lower:
        raise MemoryError(text) from error
    rare = isinstance(error, NotImplementedError) or "not supported" in lower
    if rare or "unsupported" in lower:
        return unsupported(f"a {header.format.upper()} of a rare kind")
    if "truncated" in lower:
        return ImageCorrupt(CUT_OFF if header.format in _FILLED else "it ends too early")
    detail = f" ({text})" if _QUOTABLE.fullmatch(text) and "0x" not in text else ""
    return ImageCorrupt(f"its {header.format.upper()} data is damaged{detail}")


#: Pillow's limits and Python's warning filters belong to the process: one decode at a time.
_PILLOW = threading.Lock()


@contextmanager
def _strict_pillow(max_pixels: int, *, fill: bool) -> Iterator[None]:
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that is dropped anyway
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, fill
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limit, truncated


_SIDEWAYS = (5, 6, 7, 8)
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


def _turned(samples: Plane, orientation: int) -> Plane:
    """As Pillow turns an image: (H, W, C), or (W, H, C) if that was held sideways."""
    if orientation in _SIDEWAYS:
        samples = samples.swapaxes(0, 1)
    mirrored, upside_down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return samples[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


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
