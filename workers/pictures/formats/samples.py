"""Decodes samples that Pillow cannot hold: more than 8 bits, and TIFFs of rarer kinds.

imagecodecs has the library of each format, and tifffile locates the parts of a TIFF. The size that
a part declares is not trusted: it is compared with the header before anything is decoded.

Letters: H x W the picture's pixels, C channels.
"""

import logging
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from workers.contract.errors import CUT_OFF, ImageCorrupt
from workers.contract.images.formats import ColourKind, ImageFormat, ImageHeader, unsupported
from workers.contract.images.headers import read_header
from workers.pictures.colour.srgb import srgb_levels
from workers.pictures.picture import Plane, scaled

#: Muted: clients get these faults as errors.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def read_samples(data: bytes, header: ImageHeader) -> Plane:
    """Decode any format but TIFF to samples (H, W, C) of uint16, not turned.

    Raises:
        RuntimeError, ValueError: they cannot be read.
    """
    bits = header.bits
    match header.format:
        case ImageFormat.PNG:
            samples = imagecodecs.png_decode(data)
        case ImageFormat.AVIF:
            samples = imagecodecs.avif_decode(data, 0, numthreads=1)
        case ImageFormat.JXL:
            samples = imagecodecs.jpegxl_decode(data, 0, numthreads=1)
        case ImageFormat.HEIC:
            from pillow_heif import open_heif

            # pillow_heif shifts samples to 16 bits, which leaves white short of full scale.
            samples = np.asarray(open_heif(BytesIO(data), convert_hdr_to_8bit=False))
            samples = samples >> (16 - bits)
        case _:
            raise unsupported(f"a {header.format.upper()} of {bits} bits a channel")
    samples = np.atleast_3d(samples)
    if sorted(samples.shape[:2]) != sorted((header.width, header.height)):
        raise ImageCorrupt("its header is inconsistent")
    return scaled(samples, bits, 16)


# TIFF

#: Compressions that decode to a given length, and those whose parts are complete pictures.
_PACKERS = frozenset((
    COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.LZW,
    COMPRESSION.PACKBITS, COMPRESSION.LZMA, COMPRESSION.ZSTD,
))  # fmt: skip
_PICTURES = frozenset((COMPRESSION.JPEG, COMPRESSION.WEBP))
_MAX_PARTS = 2**18
_MAX_CHANNELS = 8
#: Tiles of a small picture may be larger than it.
_MAX_PART_PIXELS = 2**20
_BITS = 258
#: Values of ExtraSamples that mean alpha; the last is CorelDraw's.
_ALPHAS = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA, 999)
_BAND_ROWS = 256
#: Tolerance for floating-point samples beyond their range.
_ROUNDED = 0.001


class TiffPage:
    """One page of a TIFF, its tags read and its pixels not yet."""

    def __init__(self, data: bytes, number: int) -> None:
        self._page = tifffile.TiffFile(BytesIO(data)).pages[number].aspage()
        self._data, self._number = data, number

    def tag(self, number: int) -> object:
        """The value of a tag, or None."""
        return self._page.tags.valueof(number)

    @property
    def is_lab(self) -> bool:
        return self._page.photometric in (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB)

    @property
    def is_truncated(self) -> bool:
        """True if some of its pixels lie beyond the end of the file."""
        places = zip(self._page.dataoffsets, self._page.databytecounts, strict=False)
        return any(start + count > len(self._data) for start, count in places)

    def samples(self, header: ImageHeader, *, fill: bool = False) -> Plane:
        """Decode its colours and alpha, not turned: (H, W, C) of uint8 or uint16.

        With `fill`, missing samples at the end are zeros.

        In grey, 0 is black; in CMYK, the maximum is full ink; alpha is straight. Lab becomes sRGB,
        and palette indices become colours.

        Raises:
            ImageUnsupported, ImageCorrupt: the picture is of a rare kind, or some of it is missing.
        """
        self._check(header, fill=fill)
        page = self._page
        samples = page.asarray(maxworkers=1)
        if page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            samples = np.moveaxis(samples, 0, -1)
        samples = np.atleast_3d(samples)
        colours = {ColourKind.CMYK: 4, ColourKind.COLOUR: 3}.get(header.kind, 1)
        stored, rest = samples[..., :colours], samples[..., colours:]
        if stored.shape[-1] < colours:
            raise ImageCorrupt(f"it has {stored.shape[-1]} channels of {colours}")
        if page.photometric == PHOTOMETRIC.PALETTE:
            colour = _of_palette(stored[..., 0], page.colormap)
        elif self.is_lab:
            colour = _lab_as_srgb(stored, signed=page.photometric == PHOTOMETRIC.CIELAB)
        else:
            colour = _levels(stored, page.bitspersample)
        if page.photometric == PHOTOMETRIC.MINISWHITE:
            colour = np.invert(colour)
        extras = page.extrasamples or (EXTRASAMPLE.UNASSALPHA,) * rest.shape[-1]
        for at, extra in enumerate(extras[: rest.shape[-1]]):
            if extra in _ALPHAS:
                alpha = _levels(rest[..., at : at + 1], page.bitspersample)
                if extra == EXTRASAMPLE.ASSOCALPHA:
                    colour = _divided(colour, alpha)
                return np.concatenate((colour, alpha), axis=-1)
        return colour

    def _check(self, header: ImageHeader, *, fill: bool) -> None:
        page = self._page
        if (page.imagewidth, page.imagelength) != (header.width, header.height):
            raise ImageCorrupt("its header is inconsistent")
        if page.compression not in _PACKERS | _PICTURES:
            raise unsupported(f"a TIFF of a rare kind (compression {int(page.compression)})")
        depths = self.tag(_BITS)
        if page.samplesperpixel > _MAX_CHANNELS or (
            isinstance(depths, tuple) and len(set(depths)) > 1
        ):
            raise unsupported("a TIFF of many channels, or of different depths")
        if page.photometric == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG:
            raise unsupported("a YCbCr TIFF of a rare kind")
        if self.is_lab and page.compression in _PICTURES:  # which would be taken for YCbCr
            raise unsupported("a CIELAB TIFF of a rare kind")
        width, height = page.imagewidth, page.rowsperstrip
        if page.is_tiled:
            width, height = page.tilewidth, page.tilelength
        if width * min(height, header.height) > max(header.pixels, _MAX_PART_PIXELS):
            raise ImageCorrupt(f"it has tiles of {width:,} x {height:,} pixels")
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        parts = int(np.prod(page.chunked))
        if parts > _MAX_PARTS:
            raise unsupported(f"a TIFF of {parts:,} parts")
        if fill:
            places = self._without_truncated_parts(places)
        ends = [start + count for start, count in places[:parts] if start and count]
        stored = 8 * sum(page.databytecounts[:parts])
        needed = header.pixels * page.samplesperpixel * page.bitspersample
        is_short = page.compression == COMPRESSION.NONE and stored < needed
        is_truncated = len(ends) < parts or max(ends, default=0) > len(self._data) or is_short
        if is_truncated and not fill:
            raise ImageCorrupt(CUT_OFF)
        if not ends:
            raise ImageCorrupt("it ends before its first row")
        for start, count in places if page.compression in _PICTURES else ():
            if not count:
                continue
            part = read_header(BytesIO(self._data[start : start + count]))
            if part.width > width or part.height > max(height, header.height):
                raise ImageCorrupt("one of its parts is larger than it says")

    def _without_truncated_parts(self, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Set the count of truncated parts to 0; extend uncompressed samples by zeros instead."""
        page, size = self._page, len(self._data)
        if page.compression == COMPRESSION.NONE:
            missing = max([0, *(start + count - size for start, count in places)])
            samples = page.imagewidth * page.imagelength * page.samplesperpixel
            self._data += bytes(min(missing, samples * page.bitspersample // 8 + 1))
            self._page = tifffile.TiffFile(BytesIO(self._data)).pages[self._number].aspage()
            return places
        whole = [(start, count if start + count <= size else 0) for start, count in places]
        page.databytecounts = tuple(count for _, count in whole)
        return whole


def _levels(samples: NDArray[Any], bits: int) -> Plane:
    """Scale samples of any depth, or floating-point ones from 0 to 1, to 8 or 16 bits."""
    if samples.dtype.kind == "f":
        if not -_ROUNDED <= samples.min() <= samples.max() <= 1 + _ROUNDED:  # nor a NaN
            raise unsupported("a TIFF of floating-point samples that are not from 0 to 1")
        return np.rint(samples.clip(0, 1) * np.float64(65535)).astype(np.uint16)
    if bits > 16:
        return (samples >> (bits - 16)).astype(np.uint16)
    return scaled(samples, bits, 8 if bits <= 8 else 16)


def _of_palette(numbers: Plane, colours: NDArray[np.uint16] | None) -> Plane:
    if colours is None or numbers.max() >= colours.shape[1]:
        raise ImageCorrupt("its palette is missing, or too short")
    unit = 256 if colours.max() >= 256 else 1  # some writers store 8-bit levels
    palette: Plane = (colours // unit).astype(np.uint8)
    return palette.T[numbers]


def _divided(colour: Plane, alpha: Plane) -> Plane:
    """Divide colour (H, W, C) that was multiplied by alpha (H, W, 1)."""
    full = np.iinfo(colour.dtype).max
    share = np.maximum(alpha, 1).astype(np.uint32)
    levels: Plane = np.minimum((colour.astype(np.uint32) * full + share // 2) // share, full)
    return levels.astype(colour.dtype)


_RGB_TO_D65 = np.array(
    ((0.412391, 0.357584, 0.180481), (0.212639, 0.715169, 0.072192), (0.019331, 0.119195, 0.950532))
)
_RGB_TO_D50 = np.array(
    ((0.436066, 0.385147, 0.143066), (0.222488, 0.716873, 0.060608), (0.013916, 0.097076, 0.714096))
)
#: Matrices from XYZ relative to white. Adobe's note on TIFF uses D50; no specification covers
#: floating-point Lab, and its writers (libvips, ImageMagick) use D65.
_D65_TO_RGB, _D50_TO_RGB = (
    np.linalg.inv(columns / columns.sum(axis=1, keepdims=True))
    for columns in (_RGB_TO_D65, _RGB_TO_D50)
)


def _lab_as_srgb(samples: NDArray[Any], *, signed: bool) -> Plane:
    is_float, bits = samples.dtype.kind == "f", 8 * samples.dtype.itemsize
    if not is_float and bits > 16:
        raise unsupported("a CIELAB TIFF of a rare kind")
    to_rgb = _D65_TO_RGB if is_float else _D50_TO_RGB
    result = np.empty(samples.shape, np.uint8 if bits == 8 else np.uint16)
    for top in range(0, len(samples), _BAND_ROWS):
        band = samples[top : top + _BAND_ROWS]
        lab = band.astype(np.float64) if is_float else _lab(band, signed=signed)
        if not np.isfinite(lab).all():
            raise ImageCorrupt("some of its samples are not numbers")
        levels = _srgb_of_lab(lab, to_rgb) * np.iinfo(result.dtype).max
        result[top : top + _BAND_ROWS] = np.rint(levels)
    return result


def _lab(samples: NDArray[Any], *, signed: bool) -> NDArray[np.float64]:
    """Scale samples of 8 or 16 bits to L from 0 to 100, and a and b around 0 (TIFF revision 6.0,
    section 23). An L of 100 is 0xFFFF, as from Photoshop; ICC.1, section 6.3.4.2, has 0xFF00.
    """
    unit = 1 if samples.dtype.itemsize == 1 else 256
    lab = samples.astype(np.float64)
    lab[..., 0] *= 100 / np.iinfo(samples.dtype).max
    ab = samples[..., 1:]
    lab[..., 1:] = ab.view(f"i{ab.dtype.itemsize}") if signed else lab[..., 1:] - 128 * unit
    lab[..., 1:] /= unit
    return lab


def _srgb_of_lab(lab: NDArray[np.float64], to_rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert Lab to sRGB from 0 to 1 (CIE 15:2018, section 8.2.1), clipped to its gamut."""
    middle = (lab[..., 0] + 16) / 116
    roots = np.stack((middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200), axis=-1)
    shares = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))
    return srgb_levels((shares @ to_rgb.T).clip(0, 1))
