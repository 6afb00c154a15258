"""The slider: one number in [0, 1] says how much of each output the picture gets.

0 is `psnr` (faithful), 0.5 is `fused`, 1 is `gan` (crisp); in between the two neighbours are
blended linearly, pixel by pixel, so that 0.25 is halfway from psnr to fused.
"""

from typing import NamedTuple


class Weights(NamedTuple):
    """Share of each output, adding up to 1, in the order of the slider; or the mask, alone."""

    psnr: float = 0.0
    fused: float = 0.0
    gan: float = 0.0
    mask: float = 0.0


MASK = Weights(mask=1.0)
"""Not a picture: for each pixel how much `fused` trusts the crisp branch, as grey."""


def output_weights(trade_off: float) -> Weights:
    """What a slider position asks of the network.

    Raises:
        ValueError: `trade_off` is outside [0, 1].
    """
    if not 0 <= trade_off <= 1:
        raise ValueError(f"trade_off is {trade_off}; it goes from 0 to 1")
    if trade_off <= 0.5:
        return Weights(psnr=1 - 2 * trade_off, fused=2 * trade_off)
    return Weights(fused=2 - 2 * trade_off, gan=2 * trade_off - 1)
