"""What a picture's file says beside its pixels: how it was held, its dots per inch, EXIF and XMP.

All of it is optional, and broken often: what cannot be read is left out, never a reason to fail.
"""

import struct
from typing import NamedTuple

from PIL import Image

#: What Pillow raises for metadata that it cannot read.
BROKEN = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error,
)  # fmt: skip
#: A JPEG has one segment of 64 KiB for either.
MAX_BYTES = 65_000

_ORIENTATION, _EXIF, _GPS, _XMP = 0x0112, 0x8769, 0x8825, 700
#: Description, maker, model, software, time, artist, copyright: what a person would miss.
_KEPT_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
#: Of the part on the exposure: the old size, the old colour space, and places in the old file.
_STALE_TAGS = (0xA001, 0xA002, 0xA003, 0xA005, 0x927C)


class Metadata(NamedTuple):
    """EXIF (a TIFF header and its tags, as every format stores it) and XMP, where there are any."""

    exif: bytes | None = None
    xmp: bytes | None = None
    warnings: tuple[str, ...] = ()


def read_orientation(image: Image.Image) -> int:
    """How the picture was held, 1 to 8; 1 (upright) where EXIF is missing or broken."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except BROKEN:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def read_dpi(image: Image.Image, *, swapped: bool) -> tuple[float, float] | None:
    """Dots per inch, if they are a pair of sensible numbers."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except BROKEN:
        return None
    # 1 is what Pillow says of a TIFF without resolution.
    if not all(1 < dots < 2**16 for dots in (across, down)):
        return None
    return (down, across) if swapped else (across, down)


def read_metadata(image: Image.Image) -> Metadata:
    """What `metadata=keep` keeps. The picture is upright by now, so the orientation is left out."""
    warnings = []
    exif: bytes | None = None
    try:
        exif = _kept_exif(image.getexif())
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
    return Metadata(exif, xmp, tuple(warnings))


def _kept_exif(found: Image.Exif) -> bytes | None:
    kept = Image.Exif()
    for tag in _KEPT_TAGS:
        if tag in found:
            kept[tag] = found[tag]
    for part in (_EXIF, _GPS):
        tags = {tag: value for tag, value in found.get_ifd(part).items() if tag not in _STALE_TAGS}
        if tags:
            kept[part] = tags
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else None
