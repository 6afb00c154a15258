"""Stored branches: the network's three outputs as pictures, and blending them for a slider
position.

A stored branch is exactly the result at that stop of the slider: with the chosen size, background,
bit depth and colour space, with its profile and metadata. Other positions are blended from these
samples, in the original job too, so a derived result has the same pixels as a direct one.

Branches are PNG files in the form that our own encoder writes: browsers can show them, and a fixed
filter makes them several times faster to read than an arbitrary PNG, and regions can be read
without the rows below.
"""

import struct
from dataclasses import replace
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from workers.contract.errors import ImageCorrupt
from workers.contract.queue.jobs import KEPT, Region
from workers.pictures.formats.png import CHANNELS, INFLATE_ERROR, PROFILE_START, XMP_START, chunks
from workers.pictures.metadata import METRES_PER_INCH, Metadata, dots_per_inch
from workers.pictures.picture import Picture, Plane
from workers.pictures.xmp import without_places
from workers.tiles.trade_off import output_weights

_BAND_BYTES = 2**18  # fits the CPU cache


def needed_outputs(trade_off: float) -> dict[str, float]:
    """The branches that a slider position is blended from, with their shares."""
    shares = zip(KEPT, output_weights(trade_off), strict=True)
    return {output: share for output, share in shares if share}


def blend_pictures(pictures: list[Picture], shares: list[float]) -> Picture:
    """Blend two pictures of equal transparency linearly; return a single one unchanged."""
    if len(pictures) == 1:
        return pictures[0]
    first, second = pictures
    if first.grey:
        grey = _blend(first.colour[..., :1], second.colour[..., :1], shares[1])
        colour = np.broadcast_to(grey, first.colour.shape)
    else:
        colour = _blend(first.colour, second.colour, shares[1])
    return replace(first, colour=colour)


def invented_share(picture: Picture, faithful: Picture) -> float:
    """Share of the fine detail of a picture that the faithful branch does not have, 0 to 1.

    It is invented / (invented + measured), each summed over all samples: `invented` is the absolute
    difference to the faithful branch; `measured` is the absolute difference of the faithful branch
    to its mean in a block of 4 x 4 pixels, which is one pixel of the original.
    """
    channels = 1 if picture.grey else 3
    wide: type[Any] = np.int16 if picture.bits == 8 else np.int32  # 16 times a sample fits
    step = max(4, _BAND_BYTES // (channels * picture.width) // 4 * 4)
    invented = measured = 0
    for top in range(0, picture.height, step):
        made = picture.colour[top : top + step, :, :channels].astype(wide)
        known = faithful.colour[top : top + step, :, :channels].astype(wide)
        invented += int(np.abs(made - known).sum(dtype=np.int64))
        height, width = (side // 4 * 4 for side in known.shape[:2])
        blocks = known[:height, :width].reshape(height // 4, 4, width // 4, 4, channels)
        sums = blocks.sum(axis=(1, 3), keepdims=True, dtype=wide)
        measured += int(np.abs(16 * blocks - sums).sum(dtype=np.int64))
    return round(16 * invented / (16 * invented + measured), 4) if invented else 0.0


def read_branch(png: bytes, region: Region | None = None) -> Picture:
    """Read a stored branch, or any PNG of our own; only a `region` if one is given.

    Raises:
        ImageCorrupt: our encoder did not write it, or it is smaller than the region.
    """
    pixels: list[memoryview] = []
    dpi = profile = exif = xmp = iptc = None
    width = height = bits = colour_type = 0
    for name, body, _ in chunks(memoryview(png)):
        match name:
            case b"IHDR":
                width, height, bits, colour_type = struct.unpack_from(">IIBB", body)
            case b"pHYs":
                across, down, _ = struct.unpack(">IIB", body)
                dpi = dots_per_inch(across * METRES_PER_INCH), dots_per_inch(down * METRES_PER_INCH)
            case b"iCCP":
                profile = isal_zlib.decompress(body[len(PROFILE_START) :])
            case b"eXIf":
                exif = bytes(body)
            case b"iTXt":
                xmp = bytes(body[len(XMP_START) :])
                xmp = without_places(xmp) if region else xmp
            case b"ipTc":
                iptc = bytes(body)
            case b"IDAT":
                pixels.append(body)
    region = region or Region(0, 0, width, height)
    channels, sample_bytes = CHANNELS.get(colour_type, 0), bits // 8
    samples: Plane = _unfiltered(
        pixels,
        rows=slice(region.y, region.y + region.height),
        row_bytes=width * channels * sample_bytes,
        columns=slice(*(x * channels * sample_bytes for x in (region.x, region.x + region.width))),
    )
    if sample_bytes == 2:
        samples = samples.view(">u2").astype(np.uint16)
    planes = samples.reshape(region.height, region.width, channels)
    has_alpha, grey = channels in (2, 4), channels < 3
    return Picture(
        colour=np.broadcast_to(planes[..., :1], (*planes.shape[:2], 3))
        if grey
        else planes[..., :3],
        alpha=planes[..., -1] if has_alpha else None,
        grey=grey,
        dpi=dpi,
        profile=profile,
        metadata=Metadata(exif=exif, xmp=xmp, iptc=iptc),
    )


def _unfiltered(
    pieces: list[memoryview], *, rows: slice, row_bytes: int, columns: slice
) -> NDArray[np.uint8]:
    """Undo the filter "difference to the row above" for some rows, and some bytes of them."""
    filtered = _inflated(pieces, rows=rows.stop, row_bytes=row_bytes)
    differences = filtered[:, 1:][:, columns]
    result = np.empty((rows.stop - rows.start, differences.shape[1]), np.uint8)
    if not result.size:
        raise ImageCorrupt("a stored branch has no pixels")
    np.add.reduce(differences[: rows.start + 1], axis=0, dtype=np.uint8, out=result[0])
    for row in range(1, len(result)):
        np.add(result[row - 1], differences[rows.start + row], out=result[row])
    return result


def _inflated(pieces: list[memoryview], *, rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """The first rows of a PNG, each after its filter type: (rows, 1 + row_bytes)."""
    expected = rows * (1 + row_bytes)
    inflator = isal_zlib.decompressobj()
    data = bytearray()
    try:
        for piece in pieces:
            if len(data) >= expected:
                break
            data += inflator.decompress(piece, expected - len(data))
        if len(data) < expected:
            # the decompressor may hold back the end of a run of equal bytes
            data += inflator.flush()
    except INFLATE_ERROR:
        raise ImageCorrupt("a stored branch is damaged") from None
    if not expected or len(data) != expected:
        raise ImageCorrupt("a stored branch ends too early")
    filtered = np.frombuffer(data, np.uint8).reshape(rows, 1 + row_bytes)
    if (filtered[:, 0] != 2).any():
        raise ImageCorrupt("a stored branch was not written by this encoder")
    return filtered


def _blend(first: Plane, second: Plane, share: float) -> Plane:
    """`share` of the second and the rest of the first; equal samples stay exact."""
    of_second = np.uint32(round(share * 2 ** (8 * first.itemsize)))
    result = np.empty_like(first, order="C")
    band = max(1, _BAND_BYTES // (first[0].size * first.itemsize))
    for top in range(0, len(first), band):
        rows = slice(top, top + band)
        result[rows] = mixed(first[rows], second[rows], of_second)
    return result


def mixed(first: Plane, second: Plane, share: Any) -> Plane:
    """Weighted sum; the second's share is in 256ths, or 65536ths for samples of 16 bits."""
    bits = 8 * first.itemsize
    wide: type[Any] = np.uint16 if bits == 8 else np.uint32  # a sample times 2**bits fits
    total: Any = first.astype(wide)
    total *= (2**bits - share).astype(wide)
    total += second.astype(wide) * share.astype(wide)
    total += wide(2 ** (bits - 1))
    total >>= wide(bits)
    blended: Plane = total.astype(first.dtype)
    return blended
