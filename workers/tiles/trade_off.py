"""The slider: one number in [0, 1] gives the share of each output in the result.

0 is `psnr` (faithful), 0.5 is `fused`, 1 is `gan` (crisp). In between the two neighbours are
blended linearly per pixel, so 0.25 is halfway from psnr to fused.
"""

from typing import NamedTuple


class Weights(NamedTuple):
    """Share of each output, adding up to 1, in the order of the slider; or the mask, alone."""

    psnr: float = 0.0
    fused: float = 0.0
    gan: float = 0.0
    mask: float = 0.0


MASK = Weights(mask=1.0)
"""Not a picture: the weight of the crisp branch in `fused` for each pixel, as grey."""


def output_weights(trade_off: float) -> Weights:
    """The output shares of a slider position.

    Raises:
        ValueError: `trade_off` is outside [0, 1].
    """
    if not 0 <= trade_off <= 1:
        raise ValueError(f"trade_off is {trade_off}; it must be between 0 and 1")
    if trade_off <= 0.5:
        return Weights(psnr=1 - 2 * trade_off, fused=2 * trade_off)
    return Weights(fused=2 - 2 * trade_off, gan=2 * trade_off - 1)
