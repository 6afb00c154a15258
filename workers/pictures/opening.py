"""Opens a picture with Pillow: only by the codec of its own format, with all pixels loaded."""

import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO
from typing import NamedTuple

import imagecodecs
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from workers.contract.errors import CUT_OFF, FrameMissing, ImageCorrupt, ImageRejected
from workers.contract.images.formats import ImageFormat, ImageHeader, unsupported
from workers.contract.images.jxl import JXL_EXIF_OFFSET, jxl_box
from workers.contract.images.tiff_and_avif import tiff_page
from workers.pictures.extras import installed, make_ready
from workers.pictures.formats.bmp import bmp_image, bmp_profile
from workers.pictures.formats.png import MAX_PROFILE_BYTES, XMP_START, chunks, is_whole, is_xmp
from workers.pictures.formats.samples import TiffPage, read_samples
from workers.pictures.formats.webp import is_truncated_webp
from workers.pictures.metadata import (
    BROKEN,
    DOTS_PER_INCH,
    INCH,
    IPTC_RESOURCE,
    IPTC_TAG,
    ORIENTATION,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    Metadata,
    read_dpi,
    read_metadata,
    read_orientation,
    without_xmp,
)
from workers.pictures.picture import Picture, Plane

PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES

_PROFILE, _XMP, _PLANES = 34675, 700, 284
_RESOLUTION = X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT
_REDUCED, _FULL = 530, (1, 1)
#: Limit for the metadata of a JPEG XL.
_MAX_UNPACKED_BYTES = 2**20
_NOT_IN_PILLOW = ("webp", "zstd", "lzma")


class Opened(NamedTuple):
    """A picture as its codec decoded it."""

    #: The right way up, palettes resolved.
    image: Image.Image
    #: Stored without colour, or with a palette of greys only.
    is_grey: bool
    #: Samples that the image cannot hold as stored: (H, W, channels), colour before alpha. If
    #: there are any, only the metadata of the image counts.
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
    """Decode with the format's codec, and turn its errors for bad bytes into ours.

    With `fill`, pixels at the end of a GIF, BMP or TIFF may be missing.
    """
    try:
        with _strict_pillow(max_pixels, fill=fill and header.format is ImageFormat.GIF):
            make_ready(header.format)
            if header.format is ImageFormat.TIFF:
                return _open_tiff(data, header, frame, fill=fill)
            if header.format is ImageFormat.BMP and fill:
                if len(data) <= int.from_bytes(data[10:14], "little"):
                    raise ImageCorrupt("it ends before its first row")
                data += bytes(4 * header.pixels)
            image = bmp_image(data) if header.format is ImageFormat.BMP else None
            image = image or _pillow_image(data, header)
            if header.format is ImageFormat.BMP:
                image.info["icc_profile"] = bmp_profile(data)
            if header.frames != 1:
                if frame >= (frames := getattr(image, "n_frames", 1)):
                    raise FrameMissing(frame=frame, frames=frames)
                image.seek(frame)
            _check_size(image, header)
            # Load first: reading EXIF loads a PNG, and errors of that loading are ignored.
            image.load()
            samples = read_samples(data, header) if header.bits > 8 else None
            if header.format is ImageFormat.JXL:
                image.info.update(_jxl_metadata(data))
            orientation = 1 if _is_upright(image, header) else read_orientation(image)
            metadata = read_metadata(image, turned=orientation in _TURNS)
            return _upright(image, samples, orientation, metadata)
    except _BAD_BYTES as error:
        if _is_truncated(data, header, frame):
            raise ImageCorrupt(CUT_OFF) from error
        raise _translated_error(error, header) from error


def _pillow_image(data: bytes, header: ImageHeader) -> ImageFile.ImageFile:
    name = "HEIF" if header.format is ImageFormat.HEIC else header.format.upper()
    return Image.open(BytesIO(data), formats=(name,))


def _jxl_metadata(data: bytes) -> dict[str, bytes]:
    """The metadata that pillow_jxl leaves out: XMP, and compressed XMP and EXIF."""
    found = {}
    for name, box in (("xmp", b"xml "), ("exif", b"Exif")):
        if packed := jxl_box(BytesIO(data), b"brob", of=box):
            with suppress(imagecodecs.BrotliError):
                body = imagecodecs.brotli_decode(packed[len(box) :], out=_MAX_UNPACKED_BYTES)
                found[name] = bytes(body).removeprefix(JXL_EXIF_OFFSET)
    if xmp := jxl_box(BytesIO(data), b"xml "):
        found["xmp"] = xmp
    return found


def _open_tiff(data: bytes, header: ImageHeader, frame: int, *, fill: bool) -> Opened:
    number, place = tiff_page(BytesIO(data), frame=frame)
    image = _pillow_tiff(data, header, number) if header.bits <= 8 and not fill else None
    if image is None:
        page = TiffPage(data, number)
        samples = page.samples(header, fill=fill)
        tags = _without_pixels(page)
        orientation = page.tag(ORIENTATION)
        metadata = read_metadata(tags, turned=orientation in _TURNS, tiff=data, page=place)
        return _upright(tags, samples, orientation, metadata)
    _check_size(image, header)
    orientation = read_orientation(image)
    with without_xmp(image):
        image.load()  # which turns it, and removes its orientation
    _widen_palette(image)
    metadata = read_metadata(image, turned=orientation in _TURNS, tiff=data, page=place)
    return _upright(image, None, orientation, metadata, is_turned=True)


def _pillow_tiff(
    data: bytes, header: ImageHeader, number: int
) -> TiffImagePlugin.TiffImageFile | None:
    """Open a TIFF; None for the kinds that Pillow does not support, or only in part."""
    try:
        image = _pillow_image(data, header)
        if number:
            image.info.clear()  # Pillow would keep the profile and the dots per inch of the first
            image.seek(number)
    except (UnidentifiedImageError, SyntaxError):
        return None
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    # Pillow does not convert Lab, misreads alpha in a plane of its own and plain YCbCr of reduced
    # colour, and its wheels lack some compressions.
    tags, compression = image.tag_v2, image.info.get("compression")
    is_rare = (
        image.mode == "LAB"
        or compression in _NOT_IN_PILLOW
        or (tags.get(_PLANES) == 2 and len(image.getbands()) > 1)
        or (image.mode == "YCbCr" and compression == "raw" and tags.get(_REDUCED, _FULL) != _FULL)
    )
    return None if is_rare else image


def _without_pixels(page: TiffPage) -> Image.Image:
    """Return an image with only the tags of a TIFF page, under the names that Pillow uses."""
    image = Image.new("L", (1, 1))
    profile, xmp, iptc = (page.tag(number) for number in (_PROFILE, _XMP, IPTC_TAG))
    across, down, unit = (page.tag(number) for number in _RESOLUTION)
    unit = INCH if unit is None else unit
    if isinstance(across, tuple) and isinstance(down, tuple) and unit in DOTS_PER_INCH:
        factor = DOTS_PER_INCH[unit]
        image.info["dpi"] = tuple(factor * part[0] / max(part[1], 1) for part in (across, down))
    if page.is_lab:
        profile = None  # the samples are in sRGB by now
    image.info |= {"icc_profile": profile, "xmp": xmp, "photoshop": {IPTC_RESOURCE: iptc}}
    return image


def _check_size(image: Image.Image, header: ImageHeader) -> None:
    if sorted(image.size) != sorted((header.width, header.height)):
        raise ImageCorrupt("its header is inconsistent")


def _upright(
    image: Image.Image,
    samples: Plane | None,
    orientation: object,
    metadata: Metadata,
    *,
    is_turned: bool = False,
) -> Opened:
    """Turn the picture upright."""
    dpi = read_dpi(image, swapped=orientation in _SIDEWAYS)
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


def with_png_metadata(picture: Picture, png: bytes) -> Picture:
    """Turn a composed frame upright as the EXIF of its PNG says, and add EXIF and XMP."""
    image = Image.new("L", (1, 1))
    for name, body, whole in chunks(memoryview(png)):
        if name == b"eXIf" and is_whole(whole):
            image.info["exif"] = b"Exif\0\0" + bytes(body)
        elif is_xmp(name, body) and is_whole(whole):
            image.info["xmp"] = bytes(body[len(XMP_START) :])
    orientation = read_orientation(image)
    metadata = read_metadata(image, turned=orientation in _TURNS)
    warnings = (*picture.warnings, *metadata.warnings)
    picture = replace(picture, metadata=metadata, warnings=warnings)
    if orientation not in _TURNS:
        return picture
    alpha, dpi = picture.alpha, picture.dpi
    return replace(
        picture,
        colour=_turned(picture.colour, orientation),
        alpha=None if alpha is None else _turned(alpha, orientation),
        dpi=(dpi[1], dpi[0]) if dpi and orientation in _SIDEWAYS else dpi,
    )


def load_codecs() -> None:
    """Import Pillow's codecs before jobs are forked, not when each opens its first picture."""
    Image.init()
    for name in installed():
        make_ready(name)


#: Errors of Pillow for bytes that it cannot read.
_BAD_BYTES = (*BROKEN, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning)
_FILLED = (ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.GIF, ImageFormat.BMP)
_QUOTABLE = re.compile(r"[A-Za-z0-9 ,.;:'()-]{3,80}")


def _is_truncated(data: bytes, header: ImageHeader, frame: int) -> bool:
    """True if a WebP or TIFF is truncated, which their codecs do not report."""
    if header.format is ImageFormat.WEBP:
        return header.frames == 1 and is_truncated_webp(data)
    if header.format is not ImageFormat.TIFF:
        return False
    try:
        return TiffPage(data, tiff_page(BytesIO(data), frame=frame)[0]).is_truncated
    except BROKEN:
        return False


def _translated_error(error: Exception, header: ImageHeader) -> ImageRejected:
    """Map an error of Pillow to one of ours; quote its text if that has no address or path."""
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


#: Pillow's limits and Python's warning filters are process-wide: one decode at a time.
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
    """True if the codec has turned the picture: JPEG XL's header has the orientation, and EXIF
    does not count there (ISO/IEC 18181-2), except in a JPEG that was recompressed without loss.
    """
    return header.format is ImageFormat.JXL and not getattr(image, "jpeg", False)


def _turned(samples: Plane, orientation: int) -> Plane:
    """Turn samples (H, W, ...) as Pillow turns an image; held sideways, they become (W, H, ...)."""
    if orientation in _SIDEWAYS:
        samples = samples.swapaxes(0, 1)
    mirrored, upside_down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return samples[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _widen_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Fix a TIFF's palette whose writer stored 8-bit levels in its 16-bit entries: Pillow takes
    the high byte. libtiff's own tools check for this too.
    """
    if image.mode != "P":
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
