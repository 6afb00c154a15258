"""A decoded picture, as everything between decoder and encoder sees it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """Pixels the right way up, in sRGB. The arrays are not to be written to."""

    #: (H, W, 3), 0 to 255; not multiplied by alpha.
    colour: Plane
    #: (H, W), 0 transparent to 255 opaque; None for a picture without an alpha channel.
    alpha: Plane | None = None
    #: True for a picture that was stored as grey: its three channels are equal.
    grey: bool = False
    #: Dots per inch, across and down.
    dpi: tuple[float, float] | None = None

    @property
    def height(self) -> int:
        return len(self.colour)

    @property
    def width(self) -> int:
        return len(self.colour[0])
