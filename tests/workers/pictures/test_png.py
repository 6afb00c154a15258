"""Pillow and the PNG checksums confirm what the PNG encoder writes."""

import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from factories import luma, photo, png_chunk, saved, transparency
from PIL import Image

from workers.contract.errors import ImageCorrupt
from workers.pictures.formats.png import checked_png, encode_png
from workers.pictures.picture import Picture

SIZES = [(1, 1), (1, 500), (3, 200), (257, 311), (500, 700)]


def picture(height: int, width: int, *, mode: str) -> Picture:
    colour = photo(height, width)
    grey = mode in ("L", "LA")
    if grey:
        colour = np.stack((luma(colour),) * 3, axis=-1)
    return Picture(
        colour=colour,
        alpha=transparency(height, width) if mode.endswith("A") else None,
        grey=grey,
    )


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and body of each chunk after checking its checksum."""
    file = BytesIO(png)
    assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    while start := file.read(8):
        length, name = struct.unpack(">I4s", start)
        body = file.read(length)
        assert file.read(4) == struct.pack(">I", zlib.crc32(name + body))
        yield name, body


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_written_pixels_are_read_back_equal(height: int, width: int, mode: str) -> None:
    original = picture(height, width, mode=mode)

    image = Image.open(BytesIO(encode_png(original)))
    assert image.mode == mode
    assert np.array_equal(np.asarray(image.convert("RGB")), original.colour)
    if original.alpha is not None:
        assert np.array_equal(np.asarray(image.getchannel("A")), original.alpha)


def test_the_file_is_well_formed() -> None:
    parts = list(chunks(encode_png(picture(500, 700, mode="RGB"))))
    names = [name for name, _ in parts]

    assert names[:2] == [b"IHDR", b"sRGB"]
    assert set(names[2:-1]) == {b"IDAT"}
    assert names[-1] == b"IEND"
    pixels = zlib.decompress(b"".join(body for name, body in parts if name == b"IDAT"))
    assert len(pixels) == 500 * (1 + 700 * 3)


def test_memory_beyond_the_file_is_small() -> None:
    original = picture(1500, 2000, mode="RGBA")

    tracemalloc.start()
    try:
        file = encode_png(original)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * len(file) + 2 * 2**20


def test_a_sound_png_keeps_its_pixels_and_loses_its_comments() -> None:
    original = saved(photo(), "PNG", dpi=(300, 300))
    comment = png_chunk(b"tEXt", b"Comment\0" + b"x" * 1000)

    assert checked_png(original[:33] + comment + original[33:]).data == original


@pytest.mark.parametrize("width", [2**18 - 2, 2**18 - 1, 2**18 + 4, 2**18 + 40, 2**20, 2**20 + 7])
def test_a_run_of_equal_pixels_of_any_length_is_whole(width: int) -> None:
    original = saved(np.zeros((1, width), np.uint8), "PNG", compress_level=9)

    assert checked_png(original).data == original


def test_chunks_after_the_end_are_dropped() -> None:
    original = saved(photo(), "PNG")

    assert checked_png(original + b"rubbish").data == original


def test_every_cut_within_the_pixels_is_found() -> None:
    original = saved(photo(), "PNG")
    # After the pixels come the zlib and chunk checksums, four bytes each, and the IEND chunk.
    for length in range(33, len(original) - 4 - 4 - 12 - 2):
        with pytest.raises(ImageCorrupt, match="too early"):
            checked_png(original[:length])


def test_endless_chunks_are_refused() -> None:
    original = saved(photo(), "PNG")

    with pytest.raises(ImageCorrupt, match="more than"):
        checked_png(original[:33] + png_chunk(b"tEXt", b"") * 2**17 + original[33:])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_machine_of_many_processors_writes_the_same_file(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    original = picture(900, 1100, mode=mode)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    alone = encode_png(original)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))

    assert encode_png(original) == alone
    image = Image.open(BytesIO(alone))
    image.load()  # verifies the checksum over all stripes
    assert np.array_equal(
        np.asarray(image.convert("RGB")), np.broadcast_to(original.colour, (900, 1100, 3))
    )
