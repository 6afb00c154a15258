"""The transfer curve ("gamma") of sRGB (IEC 61966-2-1), for values from 0 to 1."""

import numpy as np
from numpy.typing import NDArray


def srgb_light(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light of levels."""
    return np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)


def srgb_levels(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels of linear light."""
    return np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
