import math
import os
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.metrics.fidelity import mse_y, psnr_y, ssim_y
from model.resize import bicubic_down, bicubic_up


def grey(level: int, *, height: int = 32, width: int = 24) -> Tensor:
    return torch.full((3, height, width), level, dtype=torch.uint8)


def noise(seed: int, *, height: int = 32, width: int = 24) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)


def test_psnr_of_a_known_difference_is_as_computed_by_hand() -> None:
    # Y changes by (65.481 + 128.553 + 24.966) / 255 = 0.8588 per level of grey.
    expected = 20 * math.log10(255 / (10 * 219 / 255))

    assert psnr_y(grey(100), grey(110)) == pytest.approx(expected)


def test_the_three_colours_count_as_in_bt_601() -> None:
    for channel, weight in enumerate((65.481, 128.553, 24.966)):
        coloured = grey(0)
        coloured[channel] = 255
        assert psnr_y(coloured, grey(0)) == pytest.approx(20 * math.log10(255 / weight))


def test_equal_images_are_perfect() -> None:
    image = noise(0)

    assert psnr_y(image, image) == math.inf
    assert ssim_y(image, image) == pytest.approx(1)
    assert mse_y(image, image) == 0


def test_four_pixels_at_each_border_do_not_count() -> None:
    image, other = noise(0), noise(1)
    other[:, 4:-4, 4:-4] = image[:, 4:-4, 4:-4]

    assert psnr_y(image, other) == math.inf
    assert mse_y(image, other) == 0


def test_the_error_of_rmse_is_of_rounded_luma() -> None:
    assert mse_y(grey(100), grey(101)) == 1  # 101.88 and 102.74
    assert mse_y(grey(0), grey(1)) == 1  # 16 and 16.86


def test_ssim_is_the_mean_over_whole_windows() -> None:
    # The definition, window by window, without a convolution.
    image, other = noise(2, height=20, width=22), noise(3, height=20, width=22)
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64) / 255
    x, y = (
        (16 + torch.einsum("c,chw->hw", weights, picture.double()))[4:-4, 4:-4].numpy()
        for picture in (image, other)
    )
    steps = np.arange(11) - 5
    window = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * 1.5**2))
    window /= window.sum()
    similarities = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            spread_a, spread_b = (
                (window * (a - mean_a) ** 2).sum(),
                (window * (b - mean_b) ** 2).sum(),
            )
            together = (window * (a - mean_a) * (b - mean_b)).sum()
            similarities.append(
                (2 * mean_a * mean_b + 6.5025)
                * (2 * together + 58.5225)
                / ((mean_a**2 + mean_b**2 + 6.5025) * (spread_a + spread_b + 58.5225))
            )

    assert ssim_y(image, other) == pytest.approx(float(np.mean(similarities)), rel=1e-9)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y, mse_y])
def test_images_of_different_or_too_small_sizes_are_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match="the images have"):
        metric(grey(0), grey(0, width=20))
    with pytest.raises(ValueError, match="it must be"):
        metric(grey(0, width=8), grey(0, width=8))


def test_ssim_needs_room_for_its_window() -> None:
    with pytest.raises(ValueError, match="SSIM needs 19 x 19 pixels"):
        ssim_y(grey(0, width=18), grey(0, width=18))


def test_bicubic_on_set5_is_as_published() -> None:
    bench = os.environ.get("GDSR_BENCH_DIR")
    if not bench:
        pytest.skip("GDSR_BENCH_DIR does not name a folder with Set5")
    scores = []
    for path in sorted((Path(bench) / "Set5").glob("*.png")):
        with Image.open(path) as image:
            hr = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        hr = hr[:, : hr.shape[1] // 4 * 4, : hr.shape[2] // 4 * 4]
        scores.append(psnr_y(bicubic_up(bicubic_down(hr)), hr))

    assert len(scores) == 5
    assert 28.42 <= fmean(scores) <= 28.435
