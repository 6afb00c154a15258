"""Recovers the rows of truncated WebP files.

The decoder returns nothing for a truncated file, so its pixel data is padded, with one byte and
with another. The rows that are equal for both are the ones that the file has.
"""

import struct

import numpy as np
from PIL import Image

from workers.contract.errors import ImageCorrupt
from workers.contract.images.formats import ImageHeader

_PIXELS = (b"VP8 ", b"VP8L")
_GREY, _OPAQUE = 128, 255


def is_truncated_webp(data: bytes) -> bool:
    """True if the file is shorter than its header says."""
    return 8 + int(struct.unpack_from("<I", data, 4)[0]) > len(data)


def lengthened_webp(data: bytes, byte: bytes, header: ImageHeader) -> bytes:
    """Pad the pixel data of a file with enough of one byte.

    Raises:
        ImageCorrupt: it ends before its pixels, or is animated.
    """
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name in _PIXELS:
            pixels = (data[at + 8 :] + byte * (4096 + header.pixels)).ljust(length, byte)
            pixels += byte * (len(pixels) % 2)
            whole = data[12:at] + struct.pack("<4sI", name, len(pixels)) + pixels
            return struct.pack("<4sI4s", b"RIFF", 4 + len(whole), b"WEBP") + whole
        at += 8 + length + length % 2
    raise ImageCorrupt("it ends before its first row")


def grey_where_unequal(image: Image.Image, other: Image.Image) -> Image.Image:
    """Return the image with grey from the first row on in which the other differs.

    Raises:
        ImageCorrupt: there is no such row.
    """
    pixels = np.array(image)
    unequal = (pixels != np.asarray(other)).reshape(len(pixels), -1).any(axis=1)
    known = int(unequal.argmax()) if unequal.any() else len(pixels)
    if not known:
        raise ImageCorrupt("it ends before its first row")
    pixels[known:, :, :3], pixels[known:, :, 3:] = _GREY, _OPAQUE
    return Image.fromarray(pixels)
