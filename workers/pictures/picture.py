"""A decoded picture, as everything between decoder and encoder sees it."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from workers.pictures.metadata import Metadata

Plane = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """Upright pixels. The arrays must not be modified.

    Samples are uint8, or uint16 for a picture of 16 bits; alpha is of the same type as colour.
    """

    #: (H, W, 3), from 0 to the type's maximum; not multiplied by alpha.
    colour: Plane
    #: (H, W), from 0 (transparent) to the type's maximum (opaque); None without an alpha channel.
    alpha: Plane | None = None
    #: True for a picture that was stored as grey: its three channels are equal.
    grey: bool = False
    #: Dots per inch, across and down.
    dpi: tuple[float, float] | None = None
    #: True for a picture that was stored as inks (CMYK).
    was_cmyk: bool = False
    #: The profile of the space that the pixels are in; None: sRGB.
    profile: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)
    #: Parts that were ignored or left out.
    warnings: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return len(self.colour)

    @property
    def width(self) -> int:
        return len(self.colour[0])

    @property
    def bits(self) -> int:
        """Bits of a sample: 8 or 16."""
        return 8 * self.colour.dtype.itemsize


def with_bits(picture: Picture, bits: int) -> Picture:
    """The picture in samples of 8 or 16 bits."""
    if bits == picture.bits:
        return picture
    alpha = None if picture.alpha is None else scaled(picture.alpha, picture.bits, bits)
    if picture.grey:
        level = scaled(picture.colour[..., 0], picture.bits, bits)
        colour: Plane = np.broadcast_to(level[..., None], picture.colour.shape)
    else:
        colour = scaled(picture.colour, picture.bits, bits)
    return replace(picture, colour=colour, alpha=alpha)


def scaled(samples: Plane, bits: int, wanted: int) -> Plane:
    """Scale samples of up to 16 `bits` to 8 or 16, rounded; full scale stays full scale."""
    full, wanted_full = 2**bits - 1, 2**wanted - 1
    kind: type[np.unsignedinteger] = np.uint8 if wanted == 8 else np.uint16
    if full == wanted_full:
        return samples.astype(kind, copy=False)
    # At most 65535 x 65535 + 32767: within 32 bits.
    levels: NDArray[np.uint32] = samples.astype(np.uint32) * wanted_full + full // 2
    levels //= full
    return levels.astype(kind)
