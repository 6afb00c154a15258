"""TIFF (revision 6.0): an encoder for 8 and 16 bits; Pillow writes 16 bits for grey only.

Strips use deflate with the horizontal predictor (tags 259: 8, 317: 2), which every reader supports.
Pillow writes the directory of tags, which nests EXIF's own directories.
"""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from isal import isal_zlib
from PIL import Image, TiffImagePlugin

from workers.pictures.picture import Picture

_LEVEL = 1  # igzip's, as for PNG
_STRIP_BYTES = 2**18
_START = b"II*\0\x08\0\0\0"  # little-endian, and the directory comes first
_DEFLATE, _PREDICTOR, _INCH, _STRAIGHT_ALPHA = 8, 2, 2, 2
_XMP, _IPTC, _PROFILE = 700, 33723, 34675
_EXIF_PARTS = (0x8769, 0x8825)  # directories of Exif and GPS


def encode_tiff(picture: Picture) -> bytes:
    """Write a picture as TIFF of 8 or 16 bits: grey, RGB, each with or without alpha.

    The caller has checked that it fits into 4 GiB.
    """
    colours = 1 if picture.grey else 3
    channels = colours + (picture.alpha is not None)
    row_bytes = picture.width * channels * (picture.bits // 8)
    rows = min(max(_STRIP_BYTES // row_bytes, 1), picture.height)
    strips = list(_strips(picture, rows, colours, channels))
    lengths = [len(strip) for strip in strips]

    tags = TiffImagePlugin.ImageFileDirectory_v2(_START)
    if picture.metadata.exif:
        _add_exif(tags, picture.metadata.exif)
    tags[256], tags[257] = picture.width, picture.height
    tags[258] = (picture.bits,) * channels
    tags[259] = _DEFLATE
    tags[262] = 1 if picture.grey else 2  # zero is black, or RGB
    tags[277] = channels
    tags[278] = rows
    # Relative to the end of the directory: Pillow adds its offset.
    tags.tagtype[273] = tags.tagtype[279] = 4
    tags[273] = tuple(sum(lengths[:number]) for number in range(len(lengths)))
    tags[279] = tuple(lengths)
    tags[317] = _PREDICTOR
    if picture.dpi:
        tags[282], tags[283] = picture.dpi
        tags[296] = _INCH
    if picture.alpha is not None:
        tags[338] = _STRAIGHT_ALPHA
    if picture.metadata.xmp:
        tags.tagtype[_XMP] = 1
        tags[_XMP] = picture.metadata.xmp
    if picture.metadata.iptc:
        tags.tagtype[_IPTC] = 7
        tags[_IPTC] = picture.metadata.iptc
    if picture.profile:
        tags.tagtype[_PROFILE] = 7
        tags[_PROFILE] = picture.profile
    file = BytesIO()
    file.write(_START + tags.tobytes(len(_START)))
    for strip in strips:
        file.write(strip)
    return file.getvalue()


def _add_exif(tags: TiffImagePlugin.ImageFileDirectory_v2, exif: bytes) -> None:
    """Add EXIF, which is a TIFF without pixels, to the picture's own tags."""
    found = Image.Exif()
    found.load(exif)
    for tag, value in found.items():
        if tag not in _EXIF_PARTS:
            tags[tag] = value
    for part in _EXIF_PARTS:
        if values := found.get_ifd(part):
            tags.tagtype[part] = 4
            tags[part] = dict(values)


def _strips(picture: Picture, rows: int, colours: int, channels: int) -> Iterator[bytes]:
    """Yield compressed strips, in which a sample is the difference to its left neighbour."""
    sample = np.dtype("<u2" if picture.bits == 16 else "u1")
    block = np.empty((rows, picture.width, channels), sample)
    for top in range(0, picture.height, rows):
        count = min(rows, picture.height - top)
        block[:count, :, :colours] = picture.colour[top : top + count, :, :colours]
        if picture.alpha is not None:
            block[:count, :, colours] = picture.alpha[top : top + count]
        differences = block[:count].copy()
        differences[:, 1:] -= block[:count, :-1]
        yield isal_zlib.compress(differences.tobytes(), _LEVEL)
