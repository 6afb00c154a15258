"""Colour of 16 bits out of Pillow, which keeps 8 of them."""

import sys

from PIL import Image, ImageFile

from workers.contract.images.formats import unsupported


def ask_for_low_bytes(image: Image.Image) -> None:
    """Make Pillow, which keeps the high byte of each 16-bit sample, keep the low one.

    It unfilters and decompresses whole samples, and drops a byte only when it unpacks them: told
    that their bytes are in the other order, it drops the other one.
    """
    if not isinstance(image, ImageFile.ImageFile):
        raise unsupported("a picture of a rare kind")
    image.tile = [
        part._replace(args=(_other_order(part.args[0]), *part.args[1:]))
        if isinstance(part.args, tuple)
        else part._replace(args=_other_order(part.args))
        for part in image.tile
    ]


_OTHER_ORDER = {"B": "L", "L": "B", "N": "L" if sys.byteorder == "big" else "B"}


def _other_order(layout: object) -> str:
    if not isinstance(layout, str) or layout[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16"):
        raise unsupported("a picture of 16 bits of a rare kind")
    return layout[:-1] + _OTHER_ORDER[layout[-1]]
