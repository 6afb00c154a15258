import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from random_weights import random_alexnet, random_vgg
from torch import Tensor

from model.checkpoint import CheckpointInvalid
from model.metrics import lpips
from model.metrics.dists import DISTS
from model.metrics.fidelity import mse_y, psnr_y
from model.metrics.lpips import LPIPS
from model.metrics.perceptual import Metric, load_metrics
from model.reference import read_reference
from model.resize import bicubic_down, bicubic_up

CPU = torch.device("cpu")
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # convolutions of VGG16


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small_lpips() -> LPIPS:
    return LPIPS(*random_alexnet(divisor=16))


def small_dists() -> DISTS:
    return DISTS(random_vgg(convolutions=13, divisor=32), shares(divisor=32))


def shares(*, divisor: int) -> dict[str, Tensor]:
    features = 3 + (64 + 128 + 256 + 512 + 512) // divisor
    return {name: torch.rand(1, features, 1, 1) for name in ("alpha", "beta")}


@pytest.mark.parametrize("made", [small_lpips, small_dists])
def test_a_distance_is_0_for_equal_pictures_and_the_same_both_ways(
    made: Callable[[], torch.nn.Module],
) -> None:
    distance = made()
    one, other = torch.rand(1, 3, 48, 70), torch.rand(1, 3, 48, 70)

    assert distance(one, one).item() == pytest.approx(0, abs=1e-6)
    assert distance(one, other).item() > 0.01
    assert distance(one, other).item() == pytest.approx(distance(other, one).item(), rel=1e-4)


@pytest.mark.parametrize("made", [small_lpips, small_dists])
def test_each_picture_of_a_batch_succeeds_or_fails_alone(
    made: Callable[[], torch.nn.Module],
) -> None:
    distance = made()
    images, true = torch.rand(3, 3, 40, 44), torch.rand(1, 3, 40, 44)

    together: Tensor = distance(images, true)

    assert together.shape == (3,)
    assert together.tolist() == [distance(image[None], true).item() for image in images]


@pytest.mark.parametrize("made", [small_lpips, small_dists])
def test_more_noise_is_farther(made: Callable[[], torch.nn.Module]) -> None:
    distance = made()
    true, noise = torch.rand(1, 3, 64, 64), torch.randn(1, 3, 64, 64)

    near, far = (distance(true + amount * noise, true).item() for amount in (0.05, 0.2))

    assert 0 < near < far


def test_lpips_takes_pictures_of_31_pixels_and_up() -> None:
    side = lpips.SMALLEST
    distance = small_lpips()

    assert distance(torch.rand(1, 3, side, side), torch.rand(1, 3, side, side)).item() > 0
    with pytest.raises(RuntimeError, match="too small"):
        distance(torch.rand(1, 3, side - 1, side), torch.rand(1, 3, side - 1, side))


def test_lpips_is_as_the_paper_describes_it() -> None:
    network, heads = random_alexnet(divisor=8)
    one, other = torch.rand(1, 3, 90, 77), torch.rand(1, 3, 90, 77)

    expected = described_lpips(network, heads, 2 * one - 1, 2 * other - 1)

    assert LPIPS(network, heads)(one, other).item() == pytest.approx(expected, rel=1e-5)


def test_dists_is_as_the_paper_describes_it() -> None:
    network, weights = random_vgg(convolutions=13, divisor=16), shares(divisor=16)
    one, other = torch.rand(1, 3, 61, 90), torch.rand(1, 3, 61, 90)

    expected = described_dists(network, weights, one, other)

    assert DISTS(network, weights)(one, other).item() == pytest.approx(expected, rel=1e-4)


def test_weights_that_do_not_fit_are_named() -> None:
    network, heads = random_alexnet(divisor=16)
    with pytest.raises(CheckpointInvalid, match=r"lin2\.model\.1\.weight is missing"):
        LPIPS(network, {name: head for name, head in heads.items() if "lin2" not in name})
    with pytest.raises(CheckpointInvalid, match=r"features\.3\.bias is missing"):
        LPIPS({name: part for name, part in network.items() if name != "features.3.bias"}, heads)
    with pytest.raises(CheckpointInvalid, match=r"features\.0 is not AlexNet's"):
        LPIPS({**network, "features.0.weight": torch.zeros(4, 3, 3, 3)}, heads)
    with pytest.raises(CheckpointInvalid, match="lin0 weights 7 of 4 features"):
        LPIPS(network, {**heads, "lin0.model.1.weight": torch.zeros(1, 7, 1, 1)})
    with pytest.raises(CheckpointInvalid, match="alpha does not have 95 values"):
        DISTS(random_vgg(convolutions=13, divisor=16), {"beta": torch.zeros(1, 95, 1, 1)})
    with pytest.raises(CheckpointInvalid, match="VGG19"):
        DISTS(random_vgg(convolutions=16, divisor=16), shares(divisor=16))


def test_without_weights_what_needs_them_is_left_out_in_one_line() -> None:
    metrics, missing = load_metrics(None, CPU)

    assert [metric.name for metric in metrics] == ["psnr_y", "ssim_y", "rmse_y"]
    assert missing == (
        "NIQE, LPIPS, DISTS are left out: "
        "docs/training.md says where to get their weights, under 'Metric weights'",
    )


def test_a_folder_may_hold_the_files_under_the_names_of_those_who_publish_them(
    tmp_path: Path,
) -> None:
    network, heads = random_alexnet(divisor=16)
    torch.save(network, tmp_path / "alexnet-owt-7be5be79.pth")
    torch.save(heads, tmp_path / "alex.pth")
    safetensors.torch.save_file(shares(divisor=1), tmp_path / "dists_alpha_beta.safetensors")

    metrics, (no_niqe, no_dists) = load_metrics(tmp_path, CPU)

    assert [metric.name for metric in metrics] == ["psnr_y", "ssim_y", "rmse_y", "lpips"]
    assert f"NIQE is left out: {tmp_path} has no niqe_pris_params.npz;" in no_niqe
    assert "has no vgg16_features.safetensors or vgg16-397923af.pth;" in no_dists


def test_a_file_of_weights_that_is_broken_is_no_reason_to_leave_a_metric_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "niqe_pris_params.npz"
    path.write_bytes(b"nothing")

    with pytest.raises(CheckpointInvalid, match=r"niqe_pris_params\.npz: this does not hold"):
        load_metrics(tmp_path, CPU)


def test_several_pictures_score_the_mean_but_rmse_the_root_of_the_mean_of_squares() -> None:
    metrics = {metric.name: metric for metric in load_metrics(None, CPU).metrics}

    assert metrics["psnr_y"].overall([30.0, 20.0]) == 25
    assert metrics["rmse_y"].overall([9.0, 16.0]) == pytest.approx(12.5**0.5, abs=1e-3)


def test_bytes_are_measured_by_the_metrics_of_the_protocol() -> None:
    psnr, _, rmse = load_metrics(None, CPU).metrics
    images = torch.randint(0, 256, (2, 3, 32, 24), dtype=torch.uint8)
    true = torch.randint(0, 256, (3, 32, 24), dtype=torch.uint8)

    assert psnr.measure(images, true) == [psnr_y(image, true) for image in images]
    assert rmse.measure(images, true) == [mse_y(image, true) for image in images]


def test_real_weights_measure_what_the_published_packages_do() -> None:
    weights, bench = (os.environ.get(f"GDSR_{name}") for name in ("METRIC_WEIGHTS", "BENCH_DIR"))
    if not weights or not bench:
        pytest.skip("GDSR_METRIC_WEIGHTS and GDSR_BENCH_DIR do not name weights and Set5")
    with Image.open(Path(bench) / "Set5" / "img_003.png") as image:
        true = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    enlarged = bicubic_up(bicubic_down(true))[None]
    metrics: Mapping[str, Metric] = {
        metric.name: metric for metric in load_metrics(Path(weights), CPU).metrics
    }

    # Values of lpips 0.1.4 and DISTS-pytorch 0.1 from PyPI for this pair.
    assert metrics["lpips"].measure(enlarged, true) == [pytest.approx(0.373149, abs=1e-4)]
    assert metrics["dists"].measure(enlarged, true) == [pytest.approx(0.238197, abs=1e-4)]


def test_real_weights_are_as_the_papers_describe_them() -> None:
    weights = os.environ.get("GDSR_METRIC_WEIGHTS")
    if not weights:
        pytest.skip("GDSR_METRIC_WEIGHTS does not name a folder of weights")
    folder = Path(weights)
    one, other = torch.rand(1, 3, 96, 80), torch.rand(1, 3, 96, 80)
    alexnet, heads, vgg16, alpha_beta = (
        folder / f"{name}.safetensors"
        for name in (
            "alexnet_features",
            "lpips_v0.1_alex_lin",
            "vgg16_features",
            "dists_alpha_beta",
        )
    )

    found = LPIPS(read_reference(alexnet), read_reference(heads))(one, other).item()
    assert found == pytest.approx(
        described_lpips(read(alexnet), read(heads), 2 * one - 1, 2 * other - 1), rel=1e-4
    )
    found = DISTS(read_reference(vgg16), read_reference(alpha_beta))(one, other).item()
    assert found == pytest.approx(
        described_dists(read(vgg16), read(alpha_beta), one, other), rel=1e-3
    )


def read(path: Path) -> dict[str, Tensor]:
    return {name: part.double() for name, part in safetensors.torch.load_file(path).items()}


def described_lpips(
    network: Mapping[str, Tensor], heads: Mapping[str, Tensor], one: Tensor, other: Tensor
) -> float:
    """LPIPS in float64, layer by layer, of pictures in [-1, 1]."""
    mean = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(1, 3, 1, 1)
    deviation = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(1, 3, 1, 1)
    x, y = (one.double() - mean) / deviation, (other.double() - mean) / deviation
    total = 0.0
    settings = (("0", 4, 2), ("3", 1, 2), ("6", 1, 1), ("8", 1, 1), ("10", 1, 1))
    for place, (number, stride, padding) in enumerate(settings):
        weight, bias = (
            network[f"features.{number}.{part}"].double() for part in ("weight", "bias")
        )
        if number in ("3", "6"):
            x, y = F.max_pool2d(x, 3, 2), F.max_pool2d(y, 3, 2)
        x = F.conv2d(x, weight, bias, stride, padding).relu()
        y = F.conv2d(y, weight, bias, stride, padding).relu()
        off = (F.normalize(x, dim=1) - F.normalize(y, dim=1)) ** 2
        head = heads[f"lin{place}.model.1.weight"].double()
        total += F.conv2d(off, head).mean().item()
    return total


def described_dists(
    network: Mapping[str, Tensor], weights: Mapping[str, Tensor], one: Tensor, other: Tensor
) -> float:
    """DISTS in float64, feature by feature, of pictures in [0, 1]."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(1, 3, 1, 1)
    hann = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0], dtype=torch.float64)[1:-1]
    kernel = torch.outer(hann, hann) / torch.outer(hann, hann).sum()
    pairs = [(one.double(), other.double())]
    x, y = ((image - mean) / deviation for image in pairs[0])
    for stage, numbers in enumerate(STAGES):
        if stage:
            x, y = (
                (F.conv2d(a.transpose(0, 1) ** 2, kernel[None, None], stride=2, padding=1) + 1e-12)
                .sqrt()
                .transpose(0, 1)
                for a in (x, y)
            )
        for number in numbers:
            weight, bias = (
                network[f"features.{number}.{part}"].double() for part in ("weight", "bias")
            )
            x, y = (F.conv2d(a, weight, bias, padding=1).relu() for a in (x, y))
        pairs.append((x, y))
    alpha, beta = (weights[name].double().flatten().tolist() for name in ("alpha", "beta"))
    similar = 0.0
    place = 0
    for a, b in pairs:
        for p, q in zip(a[0].flatten(1).numpy(), b[0].flatten(1).numpy(), strict=True):
            covariance = np.mean((p - p.mean()) * (q - q.mean()))
            texture = (2 * p.mean() * q.mean() + 1e-6) / (p.mean() ** 2 + q.mean() ** 2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (p.var() + q.var() + 1e-6)
            similar += alpha[place] * texture + beta[place] * structure
            place += 1
    return float(1 - similar / (sum(alpha) + sum(beta)))
