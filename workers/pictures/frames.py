"""Composes a frame of an animation on the frames before it, as a viewer shows it.

GIF and APNG store a frame as a rectangle of the picture, with a disposal method for afterwards.
Each frame becomes a file of its own here, which is decoded like any other. (The libraries of WebP
and AVIF return composed frames; pages of a TIFF are independent.)
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import count
from typing import NamedTuple

import numpy as np

from workers.contract.errors import FrameMissing, ImageCorrupt
from workers.contract.images.gif import CLEAR, KEEP, RESTORE, colours_end, gif_frames
from workers.contract.images.tiff_and_avif import Source
from workers.pictures.formats.png import COLOUR_CHUNKS, SIGNATURE, chunk, read_chunks
from workers.pictures.picture import Picture, Plane


class Layer(NamedTuple):
    """One frame, as a file of its own."""

    #: The parts of that file; frames share the objects of equal parts.
    parts: tuple[bytes, ...]
    left: int
    top: int
    width: int
    height: int
    #: True if earlier frames show through its transparent pixels.
    over: bool
    #: Disposal of its part before the next frame: KEEP, CLEAR or RESTORE.
    disposal: int

    def covers(self, width: int, height: int) -> bool:
        """True if it is as large as the picture."""
        return (self.width, self.height) == (width, height)


def composed(
    layers: Sequence[Layer], decoded: Callable[[bytes], Picture], *, width: int, height: int
) -> Picture:
    """Return the picture after the last of these layers; it always has alpha."""
    layers = layers[_first_needed(layers, width, height) :]
    colour: Plane = np.zeros((height, width, 3), np.uint8)
    alpha: Plane = np.zeros((height, width), np.uint8)
    grey = True
    for number, layer in enumerate(layers):
        picture = decoded(b"".join(layer.parts))
        if not number:
            colour = np.zeros(colour.shape, picture.colour.dtype)
            alpha = np.zeros(alpha.shape, picture.colour.dtype)
        part = np.s_[layer.top : layer.top + layer.height, layer.left : layer.left + layer.width]
        before = colour[part].copy(), alpha[part].copy()
        picture = _cut(picture, *before[1].shape)
        colour[part], alpha[part] = (
            _blended_over(picture, *before) if layer.over else _plain(picture)
        )
        grey = grey and picture.grey
        if number + 1 == len(layers):
            break
        if layer.disposal == CLEAR:
            colour[part] = alpha[part] = 0
        elif layer.disposal == RESTORE:
            colour[part], alpha[part] = before
    return replace(picture, colour=colour, alpha=alpha, grey=grey)


def _first_needed(layers: Sequence[Layer], width: int, height: int) -> int:
    """Index of the last layer that replaces all before it; 0 if there is none."""
    for number in reversed(range(len(layers))):
        layer = layers[number]
        last = number + 1 == len(layers)
        whole = layer.covers(width, height) and not layer.over
        if whole and (last or layer.disposal != RESTORE):
            return number
    return 0


def _cut(picture: Picture, height: int, width: int) -> Picture:
    """Crop a frame to the picture; a GIF frame may reach beyond it."""
    alpha = None if picture.alpha is None else picture.alpha[:height, :width]
    return replace(picture, colour=picture.colour[:height, :width], alpha=alpha)


def _plain(picture: Picture) -> tuple[Plane, Plane]:
    full = np.iinfo(picture.colour.dtype).max
    opaque = np.full(picture.colour.shape[:2], full, picture.colour.dtype)
    return picture.colour, opaque if picture.alpha is None else picture.alpha


def _blended_over(picture: Picture, below: Plane, alpha_below: Plane) -> tuple[Plane, Plane]:
    """Blend with straight alpha, as in the PNG specification."""
    colour, alpha = _plain(picture)
    full = np.iinfo(alpha.dtype).max
    share = alpha / full
    rest = alpha_below / full * (1 - share)
    total = share + rest
    mixed = colour * share[..., None] + below * rest[..., None]
    mixed /= np.where(total > 0, total, 1)[..., None]
    return mixed.round().astype(colour.dtype), (total * full).round().astype(alpha.dtype)


# GIF

_SUB_BLOCK_BYTES = 257


def gif_layers(data: bytes, *, frame: int, fill: bool = False) -> list[Layer]:
    """Return the layers of a GIF up to `frame`; with `fill`, the last may be truncated.

    Raises:
        FrameMissing: there are fewer frames.
    """
    source = Source(BytesIO(data))
    end = colours_end(source)
    layers = []
    for part in gif_frames(source):
        start, stop = part.palette
        palette = data[start:stop] if stop > start else data[13:end]
        clear = 0 if part.clear is None else part.clear
        control = struct.pack("<2sBBHBB", b"!\xf9", 4, part.clear is not None, 0, clear, 0)
        descriptor = struct.pack(
            "<B4HB", ord(","), 0, 0, part.width, part.height, 0x40 * part.interlaced
        )
        # Viewers show colours that are missing from the table as black.
        table = palette.ljust(3 * 256, b"\0")
        size = struct.pack("<6sHHBBB", b"GIF89a", part.width, part.height, 0xF7, 0, 0)
        pixels = data[part.data[0] : part.data[1]]
        if fill and part.data[1] == len(data):
            pixels += bytes(_SUB_BLOCK_BYTES)  # the rest of the cut sub-block, and the terminator
        layers.append(
            Layer(
                parts=(size, table, control, descriptor, pixels, b";"),
                left=part.left,
                top=part.top,
                width=part.width,
                height=part.height,
                over=part.clear is not None,
                disposal=part.disposal,
            )
        )
        if len(layers) > frame:
            return layers
    raise FrameMissing(frame=frame, frames=len(layers))


# APNG (https://www.w3.org/TR/png-3/#apng-frame-based-animation)

_SHARED = COLOUR_CHUNKS | {b"PLTE", b"tRNS", b"iCCP", b"cICP", b"pHYs"}


def has_separate_still(png: bytes) -> bool:
    """True if it is animated and its still picture is not one of the frames."""
    names = [name for name, _ in read_chunks(png) if name in (b"acTL", b"fcTL", b"IDAT")]
    return names[:1] == [b"acTL"] and names[1:2] == [b"IDAT"] and b"fcTL" in names


def apng_layers(png: bytes, *, frame: int) -> list[Layer]:
    """Return the layers of an animated PNG up to `frame`; its still picture counts if it is one.

    Raises:
        ImageCorrupt: a frame lies outside the picture, there are fewer, or their chunks are out of
            order (browsers then show the still picture at most).
    """
    start = png[16:29]  # IHDR
    shared: list[bytes] = []
    frames: list[tuple[bytes, list[bytes]]] = []
    numbers = count()
    for name, body in read_chunks(png):
        if name in (b"fcTL", b"fdAT") and body[:4] != struct.pack(">I", next(numbers)):
            raise ImageCorrupt("the parts of its animation are out of order")
        if name in _SHARED:
            shared.append(chunk(name, body))
        elif name == b"fcTL":
            if len(frames) > frame:
                break
            if len(body) != 26:
                raise ImageCorrupt("the position of one of its frames is damaged")
            frames.append((body, []))
        elif name in (b"IDAT", b"fdAT") and frames:
            frames[-1][1].append(body if name == b"IDAT" else body[4:])
    if len(frames) <= frame:
        raise ImageCorrupt("it has fewer frames than it says")
    layers, common = [], b"".join(shared)
    whole_width, whole_height = struct.unpack_from(">II", start)
    for number, (control, pieces) in enumerate(frames):
        width, height, left, top, disposal, blend = struct.unpack(">4x4I4xBB", control)
        if left + width > whole_width or top + height > whole_height:
            raise ImageCorrupt("one of its frames lies outside the picture")
        header = struct.pack(">II", width, height) + start[8:]
        pixels = chunk(b"IDAT", b"".join(pieces))
        layer = Layer(
            parts=(SIGNATURE, chunk(b"IHDR", header), common, pixels, chunk(b"IEND", b"")),
            left=left,
            top=top,
            width=width,
            height=height,
            over=blend == 1,
            # Before the first frame there is nothing to restore.
            disposal={0: KEEP, 1: CLEAR, 2: RESTORE if number else CLEAR}.get(disposal, KEEP),
        )
        layers.append(layer)
    return layers
