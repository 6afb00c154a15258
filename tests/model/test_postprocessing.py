import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.evaluate.patterns import patterns
from model.postprocessing import keep_colours, limit_ringing
from model.resize import bicubic_up

MARGIN = 6 / 255


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "pattern"), [*patterns(height=24, width=20, seed=0)])
def test_no_pattern_leaves_its_range_by_more_than_six_levels(name: str, pattern: Tensor) -> None:
    lr = pattern[None] / 255
    exaggerated = 0.5 + 3 * (bicubic_up(lr) - 0.5)

    limited = limit_ringing(exaggerated, lr)

    for channel, original in zip(limited[0], lr[0], strict=True):
        assert channel.min() >= max(0, original.min() - MARGIN - 1e-6), name
        assert channel.max() <= min(1, original.max() + MARGIN + 1e-6), name


def test_each_pixel_is_limited_by_the_input_within_eight_pixels_of_it() -> None:
    lr, wild = noise(2, 3, 30, 21), 4 * noise(2, 3, 120, 84) - 1.5

    limited = limit_ringing(wild, lr)

    for row, column in ((0, 0), (13, 9), (29, 20), (7, 20)):
        around = lr[..., max(0, row - 8) : row + 9, max(0, column - 8) : column + 9].flatten(2)
        low, high = around.amin(2) - MARGIN, around.amax(2) + MARGIN
        for y in range(4):
            for x in range(4):
                at = (..., 4 * row + y, 4 * column + x)
                expected = wild[at].maximum(low).minimum(high).clamp(0, 1)
                assert torch.allclose(limited[at], expected)


def test_pixels_within_the_range_stay_bit_for_bit() -> None:
    lr = noise(1, 3, 12, 17)
    image = F.interpolate(lr, scale_factor=4, mode="nearest")

    assert torch.equal(limit_ringing(image, lr), image)


def test_a_tile_with_sixteen_pixels_of_context_is_limited_as_the_whole_picture() -> None:
    lr, image = noise(1, 3, 60, 60), 4 * noise(1, 3, 240, 240) - 1.5

    whole = limit_ringing(image, lr)
    tile = limit_ringing(image[..., 16:176, 16:176], lr[..., 4:44, 4:44])

    assert torch.equal(tile[..., 64:-64, 64:-64], whole[..., 80:112, 80:112])


def test_a_shift_of_colour_is_undone() -> None:
    lr = noise(1, 3, 40, 33) / 2 + 0.2
    shifted = bicubic_up(lr) + torch.tensor([0.05, -0.03, 0.02]).view(1, 3, 1, 1)

    kept = keep_colours(shifted, lr)

    assert (kept.mean((2, 3)) - lr.mean((2, 3))).abs().max() < 0.2 / 255


def test_detail_stays_when_colours_are_kept() -> None:
    lr = noise(1, 3, 40, 33) / 2 + 0.2
    detail = 0.1 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(80, 66)
    image = F.interpolate(lr, scale_factor=4, mode="nearest") + detail

    assert torch.allclose(keep_colours(image, lr), image, atol=1e-6)


def test_noise_of_the_input_does_not_return_with_its_colours() -> None:
    grey = torch.full((1, 3, 40, 40), 0.5)
    blocks = 0.1 * (F.interpolate(noise(1, 3, 5, 5), scale_factor=8, mode="nearest") - 0.5)

    kept = keep_colours(torch.full((1, 3, 160, 160), 0.5), grey + 0.1 * (noise(1, 3, 40, 40) - 0.5))
    assert (kept - 0.5).std() < 0.15 * 0.1 * 12**-0.5
    smooth = keep_colours(torch.full((1, 3, 160, 160), 0.5), grey + blocks)
    steps = smooth.diff(dim=3).abs().max()
    assert steps < 0.05 * blocks.diff(dim=3).abs().max()


def test_a_tile_with_sixteen_pixels_of_context_has_the_colours_of_the_whole_picture() -> None:
    lr, image = noise(1, 3, 60, 60), noise(1, 3, 240, 240)

    whole = keep_colours(image, lr)
    tile = keep_colours(image[..., 16:176, 16:176], lr[..., 4:44, 4:44])

    assert torch.allclose(tile[..., 64:-64, 64:-64], whole[..., 80:112, 80:112], atol=1e-6)
