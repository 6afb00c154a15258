"""Encodes and decodes a small picture in a process that waits for a job.

A forked process takes a page fault for each page that it first touches, and copies the pages whose
reference counts it changes. Doing so before the job saves 6 ms of a picture of 256 x 256.
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
