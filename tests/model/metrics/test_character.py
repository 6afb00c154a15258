import math

import pytest
import torch
from torch import Tensor

from model.metrics.character import lr_psnr, mean_shift, mesh, mesh_allowance, overshoot

SIDE = 200


def grey(level: int, *, side: int = SIDE) -> Tensor:
    return torch.full((3, side, side), level, dtype=torch.uint8)


def along(period: int) -> Tensor:
    """Position of each column within its period, (SIDE, SIDE)."""
    return (torch.arange(SIDE) % period).expand(SIDE, SIDE)


def test_the_mesh_of_a_checkerboard_is_its_amplitude_less_what_the_local_mean_holds() -> None:
    # The 81 pixels around a pixel include one more of its own level than of the other.
    checks = (along(2) + along(2).T) % 2
    image = grey(128) + (18 * checks - 9).to(torch.int16)

    assert mesh(image.to(torch.uint8)) == pytest.approx(9 * 80 / 81)


def test_the_mesh_of_lines_is_the_root_mean_square_of_their_phases() -> None:
    # Every fourth column is 40 lighter, and a window of 9 columns holds 2 or 3 of them.
    image = grey(100) + 40 * (along(4) == 1).to(torch.uint8)

    light, dark = 40 - 40 * 3 / 9, -40 * 2 / 9
    mean = (light + 3 * dark) / 4
    expected = math.sqrt(((light - mean) ** 2 + 3 * (dark - mean) ** 2) / 4)
    assert mesh(image) == pytest.approx(expected)


def test_patterns_of_other_periods_are_no_mesh() -> None:
    assert mesh(grey(90)) == 0
    assert mesh(grey(100) + 40 * (along(3) == 1).to(torch.uint8)) == pytest.approx(0, abs=1e-9)
    edge = grey(20)
    edge[:, :, SIDE // 2 :] = 220
    assert mesh(edge) == pytest.approx(0, abs=1e-9)


def test_the_mesh_counts_colours_as_bt_601_does() -> None:
    checks = (along(2) + along(2).T) % 2
    image = grey(100)
    image[1] += (50 * checks).to(torch.uint8)

    assert mesh(image) == pytest.approx(0.587 * 25 * 80 / 81)


def test_a_mesh_in_a_corner_is_not_the_mesh_of_the_picture() -> None:
    checks = (along(2) + along(2).T) % 2
    image = grey(100) + (50 * checks).to(torch.uint8) * (along(SIDE) < 40)

    assert mesh(image.to(torch.uint8)) < 0.1


def test_a_picture_has_a_mesh_from_104_pixels_on() -> None:
    assert mesh(grey(90, side=104)) == 0
    with pytest.raises(ValueError, match="has 103x103 pixels; its mesh needs 104x104"):
        mesh(grey(90, side=103))


def test_an_original_allows_half_more_than_its_own_mesh_and_never_less_than_0_7() -> None:
    assert mesh_allowance(0.2) == 0.7
    assert mesh_allowance(2.0) == 3.0


def test_a_shift_is_that_of_the_channel_that_moved_most() -> None:
    lighter = grey(100)
    lighter[0] += 2
    lighter[2] -= 5

    assert mean_shift(lighter, grey(100)) == 5
    assert mean_shift(grey(100), grey(100)) == 0


def test_a_shift_is_a_mean_that_opposite_errors_cancel_in() -> None:
    noisy = grey(100)
    noisy[:, :, ::2] += 9
    noisy[:, :, 1::2] -= 9

    assert mean_shift(noisy, grey(100)) == 0


def test_lr_psnr_is_of_the_picture_made_small_again() -> None:
    assert lr_psnr(grey(110, side=64), grey(100, side=16)) == pytest.approx(20 * math.log10(25.5))
    assert lr_psnr(grey(100, side=64), grey(100, side=16)) == math.inf


def test_lr_psnr_counts_all_channels() -> None:
    red = grey(100, side=64)
    red[0] += 30

    expected = 10 * math.log10(255**2 / (30**2 / 3))
    assert lr_psnr(red, grey(100, side=16)) == pytest.approx(expected)


def test_lr_psnr_needs_a_result_four_times_as_large() -> None:
    with pytest.raises(ValueError, match="is not 4 times"):
        lr_psnr(grey(100, side=64), grey(100, side=8))


def test_an_overshoot_is_held_against_each_channels_own_range() -> None:
    lr = torch.stack([grey(0, side=4)[0], grey(100, side=4)[0], grey(200, side=4)[0]])
    lr[:, 0] += 50  # 0 to 50, 100 to 150, 200 to 250
    image = lr.repeat_interleave(4, 1).repeat_interleave(4, 2).float() / 255
    assert overshoot(image, lr) == pytest.approx(0, abs=1e-4)

    image[1, 3, 3] = 170 / 255
    image[2, 5, 5] = 165 / 255
    assert overshoot(image, lr) == pytest.approx(35, abs=1e-4)


def test_an_overshoot_beyond_white_counts_before_it_is_clamped() -> None:
    lr = grey(255, side=4)
    image = torch.full((3, 16, 16), 275 / 255)

    assert overshoot(image, lr) == pytest.approx(20, abs=1e-4)
