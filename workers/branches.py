"""The network's three outputs kept as pictures, and any position of the slider made of them.

A kept branch is a PNG as our own encoder writes it: every browser shows it, and its one filter
lets it be read several times quicker than a PNG of unknown origin.
"""

import struct
from dataclasses import replace
from typing import Any, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from workers.contract.errors import ImageCorrupt
from workers.contract.jobs import KEPT
from workers.pictures.picture import Picture, Plane
from workers.pictures.png import encode_png
from workers.tradeoff import output_weights

__all__ = ["blend_pictures", "needed_outputs", "read_branch", "write_branch"]

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type: grey, RGB, grey and alpha, RGBA
_SIGNATURE_BYTES = 8
_BAND_BYTES = 2**18  # stays in the cache
_METRES_PER_INCH = 0.0254
_INFLATE_ERROR = cast("type[Exception]", isal_zlib.error)  # its stub takes it for an instance

write_branch = encode_png


def needed_outputs(trade_off: float) -> dict[str, float]:
    """Which branches a position of the slider is made of, and how much of each."""
    shares = zip(KEPT, output_weights(trade_off), strict=True)
    return {output: share for output, share in shares if share}


def blend_pictures(pictures: list[Picture], shares: list[float]) -> Picture:
    """One picture, or two blended linearly; transparency is the same in both."""
    if len(pictures) == 1:
        return pictures[0]
    first, second = pictures
    if first.grey:
        grey = _blend(first.colour[..., :1], second.colour[..., :1], shares[1])
        colour = np.broadcast_to(grey, first.colour.shape)
    else:
        colour = _blend(first.colour, second.colour, shares[1])
    return replace(first, colour=colour)


def read_branch(png: bytes) -> Picture:
    """The picture of a kept branch.

    Raises:
        ImageCorrupt: it is not one.
    """
    view = memoryview(png)
    offset, pixels, dpi = _SIGNATURE_BYTES, [], None
    width = height = bits = colour_type = 0
    while offset + 12 <= len(png):
        length, name = struct.unpack_from(">I4s", png, offset)
        body = view[offset + 8 : offset + 8 + length]
        match name:
            case b"IHDR":
                width, height, bits, colour_type = struct.unpack_from(">IIBB", body)
            case b"pHYs":
                across, down, _ = struct.unpack(">IIB", body)
                dpi = (across * _METRES_PER_INCH, down * _METRES_PER_INCH)
            case b"IDAT":
                pixels.append(body)
        offset += 12 + length
    channels, sample_bytes = _CHANNELS.get(colour_type, 0), bits // 8
    samples: Plane = _unfiltered(pixels, rows=height, row_bytes=width * channels * sample_bytes)
    if sample_bytes == 2:
        samples = samples.view(">u2").astype(np.uint16)
    planes = samples.reshape(height, width, channels)
    has_alpha, grey = channels in (2, 4), channels < 3
    return Picture(
        colour=np.broadcast_to(planes[..., :1], (height, width, 3)) if grey else planes[..., :3],
        alpha=planes[..., -1] if has_alpha else None,
        grey=grey,
        dpi=dpi,
    )


def _unfiltered(pieces: list[memoryview], *, rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """The rows of a PNG in which each row is the difference to the one above."""
    expected = rows * (1 + row_bytes)
    try:
        data = isal_zlib.decompress(b"".join(pieces), bufsize=expected)
    except _INFLATE_ERROR:
        raise ImageCorrupt("a kept branch is damaged") from None
    if not rows or len(data) != expected:
        raise ImageCorrupt("a kept branch ends too early")
    filtered = np.frombuffer(data, np.uint8).reshape(rows, 1 + row_bytes)
    if (filtered[:, 0] != 2).any():
        raise ImageCorrupt("a kept branch was written by somebody else")
    result = np.empty((rows, row_bytes), np.uint8)
    result[0] = filtered[0, 1:]
    for row in range(1, rows):
        np.add(result[row - 1], filtered[row, 1:], out=result[row])
    return result


def _blend(first: Plane, second: Plane, share: float) -> Plane:
    """`share` of the second and the rest of the first; equal samples stay as they are."""
    bits = 8 * first.itemsize
    wide: type[Any] = np.uint16 if bits == 8 else np.uint32  # a sample times 2**bits fits
    of_second = round(share * 2**bits)
    result = np.empty_like(first, order="C")
    band = max(1, _BAND_BYTES // (first[0].size * first.itemsize))
    for top in range(0, len(first), band):
        mixed: Any = first[top : top + band].astype(wide)
        mixed *= wide(2**bits - of_second)
        mixed += second[top : top + band].astype(wide) * wide(of_second)
        mixed += wide(2 ** (bits - 1))
        mixed >>= wide(bits)
        result[top : top + band] = mixed
    return result
