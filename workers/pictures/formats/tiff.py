"""TIFF (revision 6.0): an encoder for 8 and 16 bits; Pillow writes 16 bits for grey only.

Strips use deflate with the horizontal predictor (tags 259: 8, 317: 2), which every reader supports.
The file has the byte order of its EXIF, whose tags are among its own.
"""

from collections.abc import Iterator
from itertools import accumulate

import numpy as np
from isal import isal_zlib

from workers.pictures.exif import Tag, exif_bytes, read_exif
from workers.pictures.picture import Picture

_LEVEL = 1  # igzip's, as for PNG
_STRIP_BYTES = 2**18
_DEFLATE, _PREDICTOR, _INCH, _STRAIGHT_ALPHA = 8, 2, 2, 2
_XMP, _IPTC, _PROFILE = 700, 33723, 34675
_BYTES, _UNDEFINED = 1, 7


def encode_tiff(picture: Picture) -> bytes:
    """Write a picture as TIFF of 8 or 16 bits: grey, RGB, each with or without alpha.

    The caller has checked that it fits into 4 GiB.
    """
    colours = 1 if picture.grey else 3
    channels = colours + (picture.alpha is not None)
    row_bytes = picture.width * channels * (picture.bits // 8)
    rows = min(max(_STRIP_BYTES // row_bytes, 1), picture.height)
    exif = read_exif(picture.metadata.exif)
    strips = list(_strips(picture, rows, colours, channels, order=exif.order))
    lengths = [len(strip) for strip in strips]
    tags = {
        256: exif.longs(picture.width),
        257: exif.longs(picture.height),
        258: exif.shorts(*(picture.bits,) * channels),
        259: exif.shorts(_DEFLATE),
        262: exif.shorts(1 if picture.grey else 2),  # zero is black, or RGB
        277: exif.shorts(channels),
        278: exif.longs(rows),
        279: exif.longs(*lengths),
        317: exif.shorts(_PREDICTOR),
    }
    if picture.dpi:
        tags[282], tags[283] = (exif.rational(dots) for dots in picture.dpi)
        tags[296] = exif.shorts(_INCH)
    if picture.alpha is not None:
        tags[338] = exif.shorts(_STRAIGHT_ALPHA)
    if picture.metadata.xmp:
        tags[_XMP] = Tag(_BYTES, picture.metadata.xmp)
    if picture.metadata.iptc:
        tags[_IPTC] = Tag(_UNDEFINED, picture.metadata.iptc)
    if picture.profile:
        tags[_PROFILE] = Tag(_UNDEFINED, picture.profile)

    def start(first: int) -> bytes:
        """The file up to its first strip, which is at that offset."""
        offsets = exif.longs(*accumulate(lengths[:-1], initial=first))
        return exif_bytes(exif._replace(tags=exif.tags | tags | {273: offsets}))

    return b"".join((start(len(start(0))), *strips))


def _strips(
    picture: Picture, rows: int, colours: int, channels: int, *, order: str
) -> Iterator[bytes]:
    """Yield compressed strips, in which a sample is the difference to its left neighbour."""
    sample = np.dtype(f"{order}u{picture.bits // 8}")
    block = np.empty((rows, picture.width, channels), sample)
    for top in range(0, picture.height, rows):
        count = min(rows, picture.height - top)
        block[:count, :, :colours] = picture.colour[top : top + count, :, :colours]
        if picture.alpha is not None:
            block[:count, :, colours] = picture.alpha[top : top + count]
        differences = block[:count].copy()
        differences[:, 1:] -= block[:count, :-1]
        yield isal_zlib.compress(differences.tobytes(), _LEVEL)
