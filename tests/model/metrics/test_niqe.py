import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.checkpoint import CheckpointInvalid
from model.metrics.niqe import Pristine, features, generalised_gaussian, load_pristine, niqe

Floats = NDArray[np.float64]


def gaussian_window() -> Floats:
    steps = np.arange(7) - 3
    window = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * (7 / 6) ** 2))
    return np.asarray(window / window.sum())


def pristine() -> Pristine:
    random = torch.Generator().manual_seed(7)
    factors = torch.randn(36, 50, generator=random, dtype=torch.float64)
    return Pristine(
        mean=torch.rand(36, generator=random, dtype=torch.float64),
        covariance=factors @ factors.T / 50,
        window=torch.from_numpy(gaussian_window()),
    )


def textured(*, height: int, width: int, seed: int = 0) -> Tensor:
    """Return shades with noise that grows from left to right."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    luma = 120 + 50 * np.sin(y / 9) * np.cos(x / 13) + random.normal(0, 2 + x / 20, y.shape)
    return torch.from_numpy(np.repeat(luma[None].clip(0, 255), 3, axis=0).astype(np.uint8))


def test_the_fit_finds_the_shape_of_normal_and_of_laplacian_samples() -> None:
    random = np.random.default_rng(0)
    samples = torch.from_numpy(np.stack((random.normal(0, 3, 10**5), random.laplace(0, 2, 10**5))))

    shape, left, right = generalised_gaussian(samples)

    assert shape.tolist() == pytest.approx([2, 1], abs=0.02)
    # A generalised Gaussian is exp(-(|x| / scale) ** shape).
    assert left.tolist() == pytest.approx([3 * math.sqrt(2), 2], rel=0.03)
    assert right.tolist() == pytest.approx([3 * math.sqrt(2), 2], rel=0.03)


def test_the_fit_tells_the_left_side_from_the_right() -> None:
    random = np.random.default_rng(1)
    one_side = np.abs(random.normal(0, 1, (2, 400_000)))
    heavier = random.random(400_000) < 0.75  # each side's weight is proportional to its width
    samples = np.where(heavier, 3 * one_side[0], -one_side[1])

    _, left, right = generalised_gaussian(torch.from_numpy(samples)[None])

    assert right.item() / left.item() == pytest.approx(3, rel=0.01)


def test_features_are_as_a_loop_over_the_blocks_computes_them() -> None:
    random = np.random.default_rng(2)
    luma = np.round(random.normal(120, 30, (230, 199)))  # two by two blocks, and a remainder

    found = features(torch.from_numpy(luma), torch.from_numpy(gaussian_window()))

    np.testing.assert_allclose(found.numpy(), looped_features(luma), rtol=1e-9)


def test_flat_places_are_flat_whatever_their_level() -> None:
    random = np.random.default_rng(3)
    luma = np.full((96, 192), 16.0)
    luma[30:80, 20:150] += np.round(random.normal(90, 20, (50, 130)))
    window = torch.from_numpy(gaussian_window())

    found = [features(torch.from_numpy(luma + level), window) for level in range(8)]

    for lighter in found[1:]:
        np.testing.assert_allclose(lighter.numpy(), found[0].numpy(), rtol=1e-6)


def test_the_score_is_the_distance_between_the_two_gaussians() -> None:
    image, natural = textured(height=208, width=304), pristine()
    luma = 16 + (65.481 + 128.553 + 24.966) * image[0].double().numpy() / 255
    found = looped_features(np.round(luma)[4:-4, 4:-4])
    off = natural.mean.numpy() - found.mean(axis=0)
    together = (natural.covariance.numpy() + np.cov(found, rowvar=False)) / 2

    expected = math.sqrt(off @ np.linalg.inv(together) @ off)

    assert niqe(image, natural) == pytest.approx(expected, rel=1e-6)


def test_four_pixels_at_each_border_do_not_count() -> None:
    image, natural = textured(height=104, width=200), pristine()
    other = torch.zeros_like(image)
    other[:, 4:-4, 4:-4] = image[:, 4:-4, 4:-4]

    assert niqe(image, natural) == niqe(other, natural)
    assert niqe(image, natural, border=0) != niqe(other, natural, border=0)


def test_a_picture_without_texture_has_no_score() -> None:
    assert math.isnan(niqe(torch.full((3, 200, 200), 90, dtype=torch.uint8), pristine()))


@pytest.mark.parametrize(("height", "width"), [(103, 400), (104, 199), (199, 104), (4, 4)])
def test_fewer_than_two_blocks_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="NIQE needs 96x192"):
        niqe(torch.zeros(3, height, width, dtype=torch.uint8), pristine())


def test_parameters_come_from_a_file_with_three_arrays(tmp_path: Path) -> None:
    path = tmp_path / "parameters.npz"
    arrays: dict[str, Any] = {
        "mu_pris_param": np.zeros((1, 36)),
        "cov_pris_param": np.eye(36),
        "gaussian_window": gaussian_window(),
    }
    np.savez(path, **arrays)

    assert load_pristine(path).covariance.equal(torch.eye(36, dtype=torch.float64))

    np.savez(path, **{**arrays, "mu_pris_param": np.zeros(36)})
    with pytest.raises(CheckpointInvalid, match=r"mu_pris_param has the shape \[36\]"):
        load_pristine(path)
    np.savez(path, mu_pris_param=np.zeros((1, 36)))
    with pytest.raises(CheckpointInvalid, match="does not hold"):
        load_pristine(path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 half a zip", b"no zip"])
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "parameters.npz"
    path.write_bytes(data)

    with pytest.raises(CheckpointInvalid, match="does not hold"):
        load_pristine(path)


def test_the_baboon_scores_as_in_matlab() -> None:
    weights, bench = (os.environ.get(f"GDSR_{name}") for name in ("METRIC_WEIGHTS", "BENCH_DIR"))
    if not weights or not bench:
        pytest.skip("GDSR_METRIC_WEIGHTS and GDSR_BENCH_DIR do not name parameters and Set14")
    with Image.open(Path(bench) / "Set14" / "img_001.png") as image:
        assert image.size == (500, 480)
        baboon = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    natural = load_pristine(Path(weights) / "niqe_pris_params.npz")

    # MATLAB R2021a gives the first value; the protocol leaves out 4 pixels at each border.
    assert niqe(baboon, natural, border=0) == pytest.approx(5.72957338, abs=1e-5)
    assert niqe(baboon, natural) == pytest.approx(5.9892, abs=0.001)


def looped_features(luma: Floats) -> Floats:
    """Compute the features as the paper describes, block by block and pixel by pixel."""
    rows, columns = luma.shape[0] // 96, luma.shape[1] // 96
    plane = luma[: 96 * rows, : 96 * columns]
    scales = []
    for side in (96, 48):
        window = gaussian_window()
        around = np.pad(plane, 3, mode="edge")
        patches = np.lib.stride_tricks.sliding_window_view(around, (7, 7))
        mean = (patches * window).sum(axis=(2, 3))
        deviation = np.sqrt(np.abs((patches**2 * window).sum(axis=(2, 3)) - mean**2))
        normalised = (plane - mean) / (deviation + 1)
        scales.append(
            [
                looped_block(normalised[side * i : side * (i + 1), side * j : side * (j + 1)])
                for i in range(rows)
                for j in range(columns)
            ]
        )
        plane = halved(halved(plane).T).T
    return np.concatenate(scales, axis=1)


def looped_block(block: Floats) -> list[float]:
    shape, left, right = looped_fit(block)
    found = [shape, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        neighbour = np.roll(np.roll(block, down, axis=0), across, axis=1)
        shape, left, right = looped_fit(block * neighbour)
        mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
        found += [shape, mean, left, right]
    return found


def looped_fit(samples: Floats) -> tuple[float, float, float]:
    left = math.sqrt(np.mean(samples[samples < 0] ** 2))
    right = math.sqrt(np.mean(samples[samples > 0] ** 2))
    ratio = left / right
    moments = np.mean(np.abs(samples)) ** 2 / np.mean(samples**2)
    moments *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = min(
        (step / 1000 for step in range(200, 10_001)),
        key=lambda s: abs(math.gamma(2 / s) ** 2 / math.gamma(1 / s) / math.gamma(3 / s) - moments),
    )
    scale = math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
    return shape, left * scale, right * scale


def halved(plane: Floats) -> Floats:
    """Halve the height with the cubic kernel, stretched to twice its support."""
    height = len(plane)
    mirrored = [*range(height), *reversed(range(height))]
    lines = []
    for row in range(height // 2):
        centre = 2 * row + 0.5
        taps = range(2 * row - 3, 2 * row + 5)
        shares = [cubic(abs(centre - tap) / 2) / 2 for tap in taps]
        lines.append(
            sum(
                share * plane[mirrored[tap % (2 * height)]]
                for share, tap in zip(shares, taps, strict=True)
            )
        )
    return np.array(lines)


def cubic(x: float) -> float:
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
