"""BMP features that Pillow refuses or reads unlike viewers: bit fields, run-length encoding, ICC.

Bit fields may have any position and width. Run-length encoding may skip pixels, which become
transparent, as in browsers.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.contract.errors import CUT_OFF, ImageCorrupt
from workers.pictures.metadata import METRES_PER_INCH

_RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS = 1, 2, 3, 6
#: The kind of colour space that is a profile in the file.
_EMBEDDED = b"DEBM"
#: Default masks: five bits per channel, or eight.
_USUAL_MASKS = {16: (0x7C00, 0x3E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}


def bmp_image(data: bytes) -> Image.Image | None:
    """Decode a BMP of these kinds; None for any other.

    Raises:
        ImageCorrupt: the file is truncated.
    """
    start, size = struct.unpack_from("<I I", data, 10)
    if size < 40:
        return None
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    shape = abs(height), width
    if compression in (_BITFIELDS, _ALPHA_BITFIELDS) and bits in _USUAL_MASKS:
        has_alpha = size >= 56 or compression == _ALPHA_BITFIELDS
        masks = struct.unpack_from("<4I" if has_alpha else "<3I", data, 54)
        image = _from_fields(data, start, shape, bits, masks)
    elif (compression, bits) in ((_RLE8, 8), (_RLE4, 4)):
        (used,) = struct.unpack_from("<I", data, 46)
        palette = data[14 + size :][: 4 * min(used or 256, 2**bits)]
        image = _from_runs(data[start:], shape, palette, four_bits=bits == 4)
    else:
        return None
    if height > 0:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    across, down = struct.unpack_from("<ii", data, 38)
    image.info["dpi"] = across * METRES_PER_INCH, down * METRES_PER_INCH
    return image


def bmp_profile(data: bytes) -> bytes | None:
    """The colour profile inside a BMP of version 5, if there is one; Pillow does not read it."""
    (size,) = struct.unpack_from("<I", data, 14)
    if size < 124 or data[70:74] != _EMBEDDED:
        return None
    start, length = struct.unpack_from("<II", data, 14 + 112)
    return data[14 + start :][:length]


def _from_fields(
    data: bytes, start: int, shape: tuple[int, int], bits: int, masks: tuple[int, ...]
) -> Image.Image:
    height, width = shape
    row_bytes = (bits * width + 31) // 32 * 4
    if start + row_bytes * height > len(data):
        raise ImageCorrupt(CUT_OFF)
    rows = np.frombuffer(data, np.uint8, row_bytes * height, start).reshape(height, row_bytes)
    samples = np.ascontiguousarray(rows[:, : width * bits // 8]).view(f"<u{bits // 8}")
    if not any(masks[:3]):
        masks = (*_USUAL_MASKS[bits], *masks[3:])
    planes = [_field(samples, mask) for mask in masks if mask or len(masks) == 3]
    # Many writers leave the alpha field zero, which means no alpha channel.
    if len(planes) == 4 and not planes[3].any():
        planes.pop()
    return Image.fromarray(np.dstack(planes))


def _field(samples: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """The bits under a mask, scaled to 0 to 255."""
    if not mask:
        return np.zeros(samples.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    full = mask >> shift
    levels: NDArray[Any] = (samples.astype(np.uint64) & mask) >> shift
    return ((levels * 255 + full // 2) // full).astype(np.uint8)


def _from_runs(
    codes: bytes, shape: tuple[int, int], palette: bytes, *, four_bits: bool
) -> Image.Image:
    """Decode run lengths; rows stay in the order of the file."""
    height, width = shape
    numbers, known = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    at = x = y = 0
    while at + 2 <= len(codes) and y < height:
        count, value = codes[at], codes[at + 1]
        at += 2
        if count:
            pair = np.array((value >> 4, value & 15) if four_bits else (value, value), np.uint8)
            run = np.tile(pair, (count + 1) // 2)[:count]
        elif value == 0:  # the end of a row
            x, y = 0, y + 1
            continue
        elif value == 1:  # the end of the picture
            break
        elif value == 2:  # a skip
            if at + 2 > len(codes):
                raise ImageCorrupt(CUT_OFF)
            x, y, at = x + codes[at], y + codes[at + 1], at + 2
            continue
        else:  # literal pixels, padded to an even number of bytes
            count = value
            used = (count + 1) // 2 if four_bits else count
            literal = np.frombuffer(codes[at : at + used], np.uint8)
            if len(literal) < used:
                raise ImageCorrupt(CUT_OFF)
            if four_bits:
                literal = np.stack((literal >> 4, literal & 15), axis=-1).ravel()
            run, at = literal[:count], at + used + used % 2
        stop = min(x + count, width)
        if x < stop:
            numbers[y, x:stop] = run[: stop - x]
            known[y, x:stop] = True
        x += count
    else:
        if y < height and not known.all():
            raise ImageCorrupt(CUT_OFF)
    colours = np.frombuffer(palette.ljust(4 * 256, b"\0"), np.uint8).reshape(256, 4)[:, 2::-1]
    if known.all():
        image = Image.fromarray(numbers)
        image.putpalette(colours.tobytes())
        return image
    alpha = np.where(known, 255, 0).astype(np.uint8)
    return Image.fromarray(np.dstack((colours[numbers], alpha)))
