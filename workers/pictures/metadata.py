"""Metadata of a picture: orientation, dots per inch, EXIF, XMP and IPTC.

All of it is optional and often broken: unreadable parts are left out, and never fail a picture.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from PIL import Image, TiffImagePlugin

from workers.pictures.exif import EXIF, GPS, INTEROP, Exif, exif_bytes, read_exif
from workers.pictures.xmp import upright, without_places

#: Errors of Pillow for metadata that it cannot read.
BROKEN = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error,
)  # fmt: skip
#: Limit for each of EXIF, XMP and IPTC: a JPEG has one segment of 64 KiB for each.
MAX_BYTES = 65_000

ORIENTATION = 0x0112
METRES_PER_INCH = 0.0254
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, INCH = 0x011A, 0x011B, 0x0128, 2
#: Factors to dots per inch, by the unit of a resolution: inch, centimetre.
DOTS_PER_INCH = {INCH: 1.0, 3: 2.54}
#: IPTC's number in a JPEG's Photoshop segment, and in a TIFF.
IPTC_RESOURCE, IPTC_TAG = 0x0404, 33723
_EXIF_START = re.compile(rb"^(?:Exif\0\0)+")
_XMP_NAMES = ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp")
_DESCRIPTION = 0x010E
#: Maker, model, software, time, artist, copyright: with the description, what people look at.
_KEPT_TAGS = (_DESCRIPTION, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
#: Descriptions of the old samples, for ImageJ, Bio-Formats (OME) and tifffile.
_STALE_DESCRIPTION = re.compile(rb'ImageJ=|\{"shape"|.*<OME ', re.DOTALL)
#: Exif tags of the old size and of places in it, the old colour space, and of offsets in the old
#: file.
_STALE_TAGS = (
    0x9102, 0x9214, 0x927C, 0xA001, 0xA002, 0xA003, 0xA20E, 0xA20F, 0xA210, 0xA214, 0xA500, 0xEA1D,
)  # fmt: skip
_COLOUR_SPACE, _INTEROP_INDEX = 0xA001, 1


class Metadata(NamedTuple):
    """EXIF (a TIFF header and its tags, as every format stores it), XMP, and the records of IPTC's
    older Information Interchange Model, where there are any.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    warnings: tuple[str, ...] = ()
    #: True if EXIF says that the stored pixels are in Adobe RGB.
    is_adobe_rgb: bool = False


def read_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) if EXIF is missing or broken."""
    try:
        with without_xmp(image):
            orientation = image.getexif().get(ORIENTATION)
    except BROKEN:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


@contextmanager
def without_xmp(image: Image.Image) -> Iterator[None]:
    """Hide XMP from Pillow, which reads orientation there if EXIF has none; no viewer does."""
    hidden = {name: image.info.pop(name) for name in _XMP_NAMES if name in image.info}
    try:
        yield
    finally:
        image.info.update(hidden)


def read_dpi(image: Image.Image, *, swapped: bool) -> tuple[float, float] | None:
    """Dots per inch, if they are a pair of sensible numbers."""
    try:
        found = image.info.get("dpi") or _exif_dpi(image.getexif())
        across, down = (dots_per_inch(float(value)) for value in found)
    except BROKEN:
        return None
    # Pillow returns 1 for a TIFF without resolution.
    if not all(1 < dots < 2**16 for dots in (across, down)):
        return None
    return (down, across) if swapped else (across, down)


def _exif_dpi(exif: Image.Exif) -> tuple[float, float]:
    factor = DOTS_PER_INCH[exif.get(RESOLUTION_UNIT, INCH)]
    return factor * exif[X_RESOLUTION], factor * exif[Y_RESOLUTION]


def dots_per_inch(dots: float) -> float:
    """The whole number that a PNG of so many dots per inch rounded to dots per metre, if any."""
    whole = round(dots)
    return whole if abs(dots - whole) <= METRES_PER_INCH / 2 else dots


def read_metadata(
    image: Image.Image, *, turned: bool, tiff: bytes = b"", page: int | None = None
) -> Metadata:
    """Read what `metadata=keep` keeps, without the orientation: the result is upright. `turned`
    says whether the orientation changes the picture.

    EXIF is that of the image, or of the page of a TIFF, whose directory is at the offset `page`.
    """
    warnings = []
    exif: bytes | None = None
    is_adobe_rgb = False
    try:
        data = tiff or _EXIF_START.sub(b"", image.info.get("exif") or b"")
        found = read_exif(data, page)
        exif, is_adobe_rgb = _kept_exif(found), _is_adobe_rgb(found)
    except BROKEN as broken:
        warnings.append(f"ignored broken EXIF data ({type(broken).__name__})")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if not isinstance(xmp, bytes):
        xmp = None
    if len(exif or b"") > MAX_BYTES:
        exif = None
        warnings.append(f"left out EXIF data of more than {MAX_BYTES:,} bytes")
    if len(xmp or b"") > MAX_BYTES:
        xmp = None
        warnings.append(f"left out XMP data of more than {MAX_BYTES:,} bytes")
    if xmp is not None and (xmp := upright(without_places(xmp) if turned else xmp)) is None:
        warnings.append("left out XMP data that is not well-formed")
    return Metadata(exif, xmp, _iptc(image), tuple(warnings), is_adobe_rgb)


def _iptc(image: Image.Image) -> bytes | None:
    """IPTC records, unchanged: Photoshop's resource 0x0404 in a JPEG, a tag in a TIFF."""
    parts = image.info.get("photoshop")
    found = parts.get(IPTC_RESOURCE) if isinstance(parts, dict) else None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        found = image.tag_v2.get(IPTC_TAG)
        if isinstance(found, tuple) and all(isinstance(value, int) for value in found):
            order = ">" if image.tag_v2.prefix == b"MM" else "<"
            found = struct.pack(f"{order}{len(found)}I", *found)
    return found if isinstance(found, bytes) and 0 < len(found) <= MAX_BYTES else None


def _is_adobe_rgb(found: Exif) -> bool:
    """True if the colour space is uncalibrated, and the index is that of Adobe RGB (DCF 2.0)."""
    space = found.parts.get(EXIF, {}).get(_COLOUR_SPACE)
    index = found.parts.get(INTEROP, {}).get(_INTEROP_INDEX)
    if space is None or index is None:
        return False
    return space.data == b"\xff\xff" and index.data[:3] == b"R03"


def _kept_exif(found: Exif) -> bytes | None:
    tags = {number: found.tags[number] for number in _KEPT_TAGS if number in found.tags}
    if _DESCRIPTION in tags and _STALE_DESCRIPTION.match(tags[_DESCRIPTION].data):
        del tags[_DESCRIPTION]
    parts = {}
    for part in (EXIF, GPS):
        values = found.parts.get(part, {})
        if kept := {number: tag for number, tag in values.items() if number not in _STALE_TAGS}:
            parts[part] = kept
    return exif_bytes(Exif(found.order, tags, parts)) if tags or parts else None
