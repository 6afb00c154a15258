"""A small picture, there and back, by a process that waits for a large one.

What a forked process touches is mapped for it then, and the objects that Python counts references
of are copied. Done while it waits, that is 6 ms less for the first picture of 256 x 256.
"""

import numpy as np

from workers.contract.images.formats import ResultFormat
from workers.pictures.decode import decode
from workers.pictures.encode import encode
from workers.pictures.picture import Picture

_SIDE = 32


def warm_up() -> None:
    """Write a JPEG, read it, and write a PNG, as most jobs do."""
    colour = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    picture = Picture(colour=colour, grey=False)
    jpeg = encode(picture, format=ResultFormat.JPEG, quality=90)
    picture = decode(jpeg, max_pixels=_SIDE * _SIDE, frame=0)
    encode(picture, format=ResultFormat.PNG, quality=90)
