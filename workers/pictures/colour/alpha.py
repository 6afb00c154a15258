"""Transparency: colour under transparent pixels, exact extremes of alpha, and backgrounds.

Alpha is straight: colour is not multiplied by it. The colour under fully transparent pixels is
arbitrary, often black, and a network or a resampling filter would draw it into the edges; so it is
first replaced by the colour around it.

Letters: H x W a picture's pixels.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.contract.images.options import SCALE
from workers.pictures.colour.profiles import Converted, is_for_grey, srgb_to_grey, srgb_to_rgb
from workers.pictures.picture import Picture, Plane

_BAND_ROWS = 256


def bleed_alpha(colour: Plane, alpha: Plane) -> Plane:
    """Colour (H, W, 3) in which pixels of alpha 0 have the colour of what is visible near them."""
    visible = alpha > 0
    return colour if visible.all() or not visible.any() else _filled(colour, visible)


def enlarge_by_lanczos(alpha: Plane) -> Plane:
    """Enlarge alpha (H, W) to (4H, 4W)."""
    height, width = alpha.shape
    size = (SCALE * width, SCALE * height)
    # Pillow resizes samples of 16 bits as floating-point numbers only.
    image = Image.fromarray(alpha if alpha.dtype == np.uint8 else alpha.astype(np.float32))
    enlarged = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    return enlarged.round().clip(0, np.iinfo(alpha.dtype).max).astype(alpha.dtype)


def restore_extremes(enlarged: Plane, alpha: Plane) -> None:
    """Make `enlarged` (4H, 4W) exactly clear or opaque where `alpha` (H, W) and neighbours are."""
    height, width = alpha.shape
    cells = enlarged.reshape(height, SCALE, width, SCALE).swapaxes(1, 2)  # (H, W, 4, 4), a view
    for end in (0, np.iinfo(alpha.dtype).max):
        cells[_eroded(alpha == end)] = end


def flattened(picture: Picture, background: str) -> Picture:
    """Blend the picture with a background (`#rrggbb`), as browsers do; opaque ones stay."""
    if picture.alpha is None:
        return picture
    full = np.iinfo(picture.alpha.dtype).max
    stored = [int(background[at : at + 2], 16) * (full // 255) for at in (1, 3, 5)]
    found = _in_space_of(picture, np.array([[stored]], picture.colour.dtype))
    behind = found.pixels[0, 0].astype(np.uint32)
    colour = np.empty(picture.colour.shape, picture.colour.dtype)
    for top in range(0, picture.height, _BAND_ROWS):
        rows = slice(top, top + _BAND_ROWS)
        share = picture.alpha[rows, :, None].astype(np.uint32)
        # At most 65535 x 65535 and a half of 65535: just within 32 bits.
        mixed = picture.colour[rows] * share + behind * (full - share)
        colour[rows] = (mixed + full // 2) // full
    return replace(
        picture,
        colour=colour,
        alpha=None,
        grey=picture.grey and len(set(stored)) == 1,
        warnings=(*picture.warnings, *found.warnings),
    )


def _in_space_of(picture: Picture, pixels: Plane) -> Converted:
    """Convert sRGB pixels (1, 1, 3) to the picture's space."""
    if picture.profile is None:
        return Converted(pixels)
    if is_for_grey(picture.profile):
        found = srgb_to_grey(pixels[..., 0], picture.profile)
        return found._replace(pixels=np.repeat(found.pixels[..., None], 3, axis=-1))
    return srgb_to_rgb(pixels, picture.profile)


def _filled(colour: Plane, known: NDArray[np.bool_]) -> Plane:
    """Fill unknown pixels from a picture of half the size, in which fewer pixels are unknown."""
    height, width = known.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    total = np.zeros((rows, columns, 3), np.uint32)
    count = np.zeros((rows, columns, 1), np.uint32)
    for y in (0, 1):
        for x in (0, 1):
            part = known[y::2, x::2, None]
            place = slice(part.shape[0]), slice(part.shape[1])
            total[place] += colour[y::2, x::2] * part
            count[place] += part
    half_known = count[..., 0] > 0
    half = ((total + count // 2) // np.maximum(count, 1)).astype(colour.dtype)
    if not half_known.all():
        half = _filled(half, half_known)
    filled = colour.copy()
    rows_of, columns_of = np.nonzero(~known)
    filled[rows_of, columns_of] = half[rows_of // 2, columns_of // 2]
    return filled


def _eroded(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Erosion: inside pixels whose eight neighbours are all inside; the border counts as inside."""
    for _ in range(2):
        inside = inside.T
        kept = inside.copy()
        kept[1:] &= inside[:-1]
        kept[:-1] &= inside[1:]
        inside = kept
    return inside
