"""Stored branches are read back exactly and blended quickly, within a level of the true blend."""

import numpy as np
import pytest
from factories import P3_PRIMARIES, held, luma, photo, rgb_profile, saved, transparency
from numpy.typing import NDArray

from workers.contract.errors import ImageCorrupt
from workers.contract.queue.jobs import Region
from workers.pictures.formats.png import encode_png
from workers.pictures.metadata import Metadata
from workers.pictures.picture import Picture
from workers.tasks.branches import (
    blend_pictures,
    invented_share,
    needed_outputs,
    read_branch,
)
from workers.tasks.maps import read_map

COLOUR = photo(37, 53)
METADATA = Metadata(exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<x:xmpmeta/>", iptc=b"\x1c\2")


def deep(height: int, width: int) -> NDArray[np.uint16]:
    """Return random 16-bit samples."""
    samples = np.random.default_rng(5).integers(0, 65536, (height, width, 3))
    return samples.astype(np.uint16)


PICTURES = {
    "colour": Picture(colour=COLOUR, dpi=(300, 300)),
    "transparent": Picture(colour=COLOUR, alpha=transparency(37, 53)),
    "grey": Picture(colour=np.broadcast_to(COLOUR[..., :1], COLOUR.shape), grey=True),
    "grey, transparent": Picture(
        colour=np.broadcast_to(COLOUR[..., :1], COLOUR.shape),
        alpha=transparency(37, 53),
        grey=True,
    ),
    "a pixel": Picture(colour=photo(1, 1)),
    "16 bits": Picture(colour=deep(37, 53)),
    "16 bits, transparent": Picture(colour=deep(37, 53), alpha=deep(37, 53)[..., 0]),
    "16 bits, grey": Picture(
        colour=np.broadcast_to(deep(37, 53)[..., :1], COLOUR.shape),
        alpha=deep(37, 53)[..., 1],
        grey=True,
    ),
    "of one colour": Picture(colour=np.full((900, 700, 3), 200, np.uint8)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_branch_is_read_back_as_it_was_written(kind: str) -> None:
    picture = PICTURES[kind]

    again = read_branch(encode_png(picture))

    assert np.array_equal(again.colour, picture.colour)
    assert (again.alpha is None) == (picture.alpha is None)
    if again.alpha is not None and picture.alpha is not None:
        assert np.array_equal(again.alpha, picture.alpha)
    assert again.grey == picture.grey
    if picture.dpi:
        assert again.dpi == picture.dpi


def test_profile_and_metadata_are_read_back_too() -> None:
    profile = rgb_profile(P3_PRIMARIES)
    picture = Picture(colour=COLOUR, dpi=(300, 72), profile=profile, metadata=METADATA)

    again = read_branch(encode_png(picture), Region(1, 2, 3, 4))

    assert again.profile == profile
    assert again.metadata == METADATA
    assert again.dpi == (300, 72)


def test_a_region_has_no_places_of_the_whole() -> None:
    xmp = b"<a xmlns:mwg-rs='urn:a'><mwg-rs:Regions>Ann</mwg-rs:Regions></a>"
    png = encode_png(Picture(colour=COLOUR, metadata=Metadata(xmp=xmp)))

    assert read_branch(png).metadata.xmp == xmp
    assert read_branch(png, Region(1, 2, 3, 4)).metadata.xmp == b"<a xmlns:mwg-rs='urn:a'></a>"


@pytest.mark.parametrize("kind", [kind for kind in PICTURES if kind != "a pixel"])
@pytest.mark.parametrize(
    "region",
    [Region(0, 0, 1, 1), Region(5, 0, 9, 37), Region(0, 30, 53, 7), Region(52, 36, 1, 1)],
)
def test_a_region_is_read_as_it_is_in_the_whole(kind: str, region: Region) -> None:
    picture = PICTURES[kind]
    x, y, width, height = region

    part = read_branch(encode_png(picture), region)

    assert np.array_equal(part.colour, picture.colour[y : y + height, x : x + width])
    if picture.alpha is not None and part.alpha is not None:
        assert np.array_equal(part.alpha, picture.alpha[y : y + height, x : x + width])


def test_rows_below_a_region_are_not_decoded() -> None:
    png = encode_png(Picture(colour=photo(1000, 700)))
    damaged = png[: len(png) // 2] + bytes(len(png) // 2)

    part = read_branch(damaged, Region(100, 100, 50, 60))

    assert np.array_equal(part.colour, photo(1000, 700)[100:160, 100:150])
    with pytest.raises(ImageCorrupt):
        read_branch(damaged)


def test_a_damaged_branch_is_refused() -> None:
    png = encode_png(PICTURES["colour"])

    with pytest.raises(ImageCorrupt, match="ends too early"):
        read_branch(png[: len(png) // 2])


def test_a_branch_of_another_writer_is_refused() -> None:
    with pytest.raises(ImageCorrupt, match="not written by this encoder"):
        read_branch(saved(COLOUR, "PNG"))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_map_is_read_as_it_is_stored(orientation: int) -> None:
    for shape in ((20, 30), (20, 20)):
        levels = luma(photo(*shape))

        assert np.array_equal(read_map(saved(levels, "PNG", exif=held(orientation))), levels)


def test_16_bits_are_blended_to_the_last_bit() -> None:
    first, second = (Picture(colour=deep(30, 40)[::step]) for step in (1, -1))
    exact = first.colour * 0.3 + second.colour * 0.7

    blended = blend_pictures([first, second], [0.3, 0.7])

    assert blended.colour.dtype == np.uint16
    assert np.abs(blended.colour - exact).max() <= 1


def test_a_position_takes_its_two_neighbours() -> None:
    assert needed_outputs(0) == {"psnr": 1}
    assert needed_outputs(0.5) == {"fused": 1}
    assert needed_outputs(1) == {"gan": 1}
    assert needed_outputs(0.35) == pytest.approx({"psnr": 0.3, "fused": 0.7})
    assert list(needed_outputs(0.9)) == ["fused", "gan"]


@pytest.mark.parametrize("trade_off", [0.001, 0.1, 0.25, 0.35, 0.499])
def test_a_blend_of_rounded_outputs_is_within_a_level_of_the_blend_of_exact_ones(
    trade_off: float,
) -> None:
    first, second = np.random.default_rng(0).uniform(0, 255, (2, 100, 100, 3))
    shares = list(needed_outputs(trade_off).values())
    direct = np.rint(first * shares[0] + second * shares[1])

    pictures = [Picture(colour=np.rint(one).astype(np.uint8)) for one in (first, second)]
    blended = blend_pictures(pictures, shares).colour

    assert np.abs(blended.astype(int) - direct).max() <= 1


def test_equal_samples_stay_as_they_are() -> None:
    picture = PICTURES["transparent"]

    for share in (0.0, 0.3, 0.5, 0.999):
        blended = blend_pictures([picture, picture], [1 - share, share])
        assert np.array_equal(blended.colour, picture.colour)


def test_nothing_is_invented_in_the_faithful_branch_and_all_beside_a_flat_one() -> None:
    flat = Picture(colour=np.full((37, 53, 3), 90, np.uint8))

    assert invented_share(PICTURES["colour"], PICTURES["colour"]) == 0
    assert invented_share(PICTURES["colour"], flat) == 1


@pytest.mark.parametrize("bits", [8, 16])
def test_the_invented_share_is_the_documented_sum(bits: int) -> None:
    made, faithful = (deep(700, 500)[::step] >> (16 - bits) for step in (1, -1))
    blocks = faithful.reshape(175, 4, 125, 4, 3).astype(float)
    measured = np.abs(blocks - blocks.mean(axis=(1, 3), keepdims=True)).sum()
    invented = np.abs(made.astype(float) - faithful).sum()

    pictures = [Picture(colour=one.astype(f"u{bits // 8}")) for one in (made, faithful)]
    assert invented_share(*pictures) == round(invented / (invented + measured), 4)


def test_the_invented_share_grows_with_the_slider() -> None:
    ends = [Picture(colour=photo(40, 50, seed=seed)) for seed in (0, 1)]

    shares = [
        invented_share(blend_pictures(ends, [1 - share, share]), ends[0])
        for share in (0.0, 0.2, 0.5, 1.0)
    ]

    assert shares[0] == 0
    assert shares == sorted(set(shares))
