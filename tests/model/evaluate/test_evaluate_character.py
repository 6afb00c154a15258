"""The character figures are right for methods whose answers are known."""

import math

import pytest
import torch
from torch import Tensor

from model.evaluate.folder import POSITIONS, evaluate, overshoots, slider_path
from model.evaluate.methods import bicubic, unrounded_bicubic
from model.evaluate.patterns import patterns
from model.metrics.perceptual import load_metrics
from model.resize import bicubic_up
from model.trainer.validation import Pair

CPU = torch.device("cpu")
PLACES = (0, 0.5, 1)


def grey(level: int, *, side: int) -> Tensor:
    return torch.full((3, side, side), level, dtype=torch.uint8)


def flat(level: int = 100) -> Pair:
    return Pair(lr=grey(level, side=32), hr=grey(level, side=128))


def stepped(lr: Tensor, *, fused: float, gan: float, mask: float = 0.5) -> dict[str, Tensor]:
    """Outputs of a slider that only lightens the picture, by so many levels at each output."""
    image = bicubic_up(lr).float() / 255
    return {
        "psnr": image,
        "fused": image + fused / 255,
        "gan": image + gan / 255,
        "mask": torch.full_like(image[:1], mask),
    }


def test_a_slider_that_only_grows_says_how_much_of_it_lies_beyond_the_middle() -> None:
    found = evaluate(
        lambda lr: stepped(lr, fused=20, gan=50), [flat(), flat(80)], [], trade_offs=PLACES
    ).slider["rmse"]

    assert found.grows
    assert found.distances == (0, 4, 8, 12, 16, 20, 26, 32, 38, 44, 50)
    assert found.second_half == 0.6


def test_a_slider_that_turns_back_does_not_grow_and_its_second_half_is_negative() -> None:
    found = evaluate(
        lambda lr: stepped(lr, fused=50, gan=20), [flat()], [], trade_offs=PLACES
    ).slider["rmse"]

    assert not found.grows
    assert found.second_half == -1.5


def test_one_picture_on_which_it_turns_back_is_enough() -> None:
    grows = list(POSITIONS)
    assert slider_path([grows, grows]).grows
    assert not slider_path([grows, [*grows[:9], grows[8], grows[10]]]).grows


def test_a_slider_without_any_difference_has_no_halves() -> None:
    found = evaluate(
        lambda lr: stepped(lr, fused=0, gan=0), [flat()], [], trade_offs=PLACES
    ).slider["rmse"]

    assert (found.grows, found.second_half) == (False, None)


def test_a_flat_mask_has_no_spread() -> None:
    found = evaluate(
        lambda lr: stepped(lr, fused=1, gan=2, mask=0.4), [flat()], [], trade_offs=PLACES
    )

    assert found.mask == {"p5": 102, "p95": 102}


def test_the_spread_of_a_mask_is_over_the_pixels_of_all_pictures() -> None:
    def method(lr: Tensor) -> dict[str, Tensor]:
        return stepped(lr, fused=1, gan=2, mask=int(lr[0, 0, 0]) / 255)

    dark, light = [flat(10)] * 6, [flat(200)] * 94
    few = [flat(10)] * 4 + [flat(200)] * 96

    assert evaluate(method, dark + light, [], trade_offs=PLACES).mask == {"p5": 10, "p95": 200}
    assert evaluate(method, few, [], trade_offs=PLACES).mask == {"p5": 200, "p95": 200}


def test_a_shift_is_the_mean_over_pictures_and_that_of_the_worst() -> None:
    def method(lr: Tensor) -> dict[str, Tensor]:
        shift = torch.tensor([0.0, -2.0, 1.0]) if lr.max() < 100 else torch.tensor([8.0, 0.0, 0.0])
        return {"mine": bicubic_up(lr).float() / 255 + shift.view(3, 1, 1) / 255}

    figures = evaluate(method, [flat(80), flat(120)], []).places["mine"]

    assert (figures["shift"], figures["shift_worst"]) == (5, 8)


def test_a_mesh_is_held_against_what_the_original_allows() -> None:
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    checks = ((y + x) % 2).to(torch.uint8)
    woven = flat(100)._replace(hr=grey(100, side=128) + 6 * checks)  # its mesh is 2.963

    def method(lr: Tensor) -> dict[str, Tensor]:
        return {"mine": bicubic_up(lr).float() / 255 + 2 * checks / 255}  # its mesh is 0.988

    found = evaluate(method, [flat(), woven, woven], [])

    own, original = 80 / 81, 3 * 80 / 81
    assert found.places["mine"]["mesh"] == pytest.approx(own, abs=1e-3)
    assert found.places["mine"]["mesh_ratio"] == pytest.approx(own / (1.5 * original), abs=1e-3)
    assert found.places["mine"]["mesh_ratio_worst"] == pytest.approx(own / 0.7, abs=1e-3)
    assert found.original["mesh"] == pytest.approx(original, abs=1e-3)
    assert found.original["mesh_allowance"] == pytest.approx(1.5 * original, abs=1e-3)


def test_one_picture_too_small_for_its_mesh_leaves_the_mesh_out() -> None:
    small = Pair(lr=grey(90, side=20), hr=grey(90, side=80))

    found = evaluate(bicubic, [flat(), small], [])

    assert set(found.places["bicubic"]) == {"shift", "shift_worst"}
    assert found.original == {}


def test_lr_psnr_is_against_what_the_method_was_given() -> None:
    pair = Pair(lr=grey(110, side=32), hr=grey(100, side=128))

    def method(lr: Tensor) -> dict[str, Tensor]:
        return {"mine": bicubic_up(lr).float() / 255 + 1 / 255}

    found = evaluate(method, [pair], load_metrics(None, CPU).metrics)

    assert found.places["mine"]["lr_psnr"] == pytest.approx(20 * math.log10(255), abs=1e-3)
    assert found.scores["mine"]["rmse_y"] == pytest.approx(11 * 219 / 255, abs=0.6)


def test_a_method_without_a_slider_has_neither_way_nor_mask() -> None:
    found = evaluate(bicubic, [flat()], [])

    assert (found.slider, found.mask) == ({}, {})


def test_overshoot_is_known_of_a_method_that_repeats_pixels_and_adds_to_them() -> None:
    def method(lr: Tensor) -> dict[str, Tensor]:
        image = lr.repeat_interleave(4, 1).repeat_interleave(4, 2).float() / 255
        return {"psnr": image, "gan": image - 12 / 255, "mask": image[:1]}

    found = overshoots(method, CPU)

    assert set(found) == {"psnr", "gan"}
    assert set(found["psnr"].values()) == {0.0}
    assert set(found["gan"].values()) == {12.0}


def test_bicubic_overshoots_most_where_contrast_is_largest() -> None:
    found = overshoots(unrounded_bicubic, CPU)["bicubic"]

    assert 0 < found["checkerboard 190/255"] < found["checkerboard 64/192"]
    assert found["checkerboard 64/192"] < found["checkerboard 0/255"]
    ratio = found["checkerboard 0/255"] / found["checkerboard 64/192"]
    assert ratio == pytest.approx(255 / 128, rel=1e-3)


def test_patterns_are_bytes_of_the_size_asked_for_and_not_flat() -> None:
    made = dict(patterns(height=17, width=40, seed=3))

    assert len(made) == 12
    for picture in made.values():
        assert picture.dtype == torch.uint8
        assert picture.shape == (3, 17, 40)
        assert picture.amax() - picture.amin() >= 32


def test_a_checkerboard_changes_with_every_pixel_and_has_two_levels() -> None:
    board = dict(patterns(height=16, width=16, seed=0))["checkerboard 190/255"]

    assert set(board.unique().tolist()) == {190, 255}
    assert (board[:, 1:] != board[:, :-1]).all()
    assert (board[:, :, 1:] != board[:, :, :-1]).all()


def test_lines_are_one_pixel_wide() -> None:
    made = dict(patterns(height=16, width=16, seed=0))

    for name, along in (("horizontal lines 0/255", 1), ("vertical lines 0/255", 2)):
        steps = made[name].int().diff(dim=along)
        assert (steps.abs() == 255).all()
        assert (made[name].int().diff(dim=3 - along) == 0).all()


def test_patterns_are_the_same_for_the_same_seed_and_differ_for_others() -> None:
    def made(seed: int) -> Tensor:
        return torch.stack([picture for _, picture in patterns(height=16, width=16, seed=seed)])

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))
