"""Trunks with fewer multiplications: equal to the plain ones, for every size."""

import numpy as np
import pytest
import torch

from model.blocks import Trunk
from model.gdsr import GDSR, GDSRConfig
from model.inference.forward import PARTS, Forward
from model.inference.winograd import WinogradTrunk, is_supported
from model.postprocessing import postprocess

SIZES = ((1, 1), (2, 3), (5, 4), (7, 8), (9, 13))


@pytest.fixture
def trunk() -> Trunk:
    torch.manual_seed(0)
    return Trunk(2, features=8, growth=8).eval().requires_grad_(requires_grad=False)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_result_is_that_of_the_plain_convolutions(
    trunk: Trunk, height: int, width: int
) -> None:
    x = torch.randn(2, 8, height, width)

    true = trunk.double()(x.double())

    found = WinogradTrunk(trunk)(x)
    assert found.shape == x.shape
    torch.testing.assert_close(found.double(), true, rtol=0, atol=2e-5)


def test_an_image_does_not_see_its_neighbours_in_the_batch(trunk: Trunk) -> None:
    images = torch.randn(3, 8, 5, 8)
    images[1] *= 1e4

    found = WinogradTrunk(trunk)(images)

    torch.testing.assert_close(found[:1], WinogradTrunk(trunk)(images[:1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[2:], WinogradTrunk(trunk)(images[2:]), rtol=0, atol=1e-5)


def test_nan_in_one_image_stays_in_it(trunk: Trunk) -> None:
    images = torch.randn(3, 8, 5, 8)
    images[1] = torch.nan

    finite = WinogradTrunk(trunk)(images).isfinite().all(dim=3).all(dim=2).all(dim=1)

    assert finite.tolist() == [True, False, True]


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs a torch with MKL")
def test_sixteen_bits_come_out_as_from_the_plain_network_in_float64() -> None:
    torch.manual_seed(0)
    config = GDSRConfig(features=64, growth=32, shared=1, guide=1, lf=1, hf_extract=1, hf=1, mask=1)
    generator = GDSR(config).eval().requires_grad_(requires_grad=False)
    tiles = np.random.default_rng(0).integers(65536, size=(1, 13, 13, 3)).astype(np.uint16)
    weights = np.array([[[part == "fused" for part in PARTS]]], dtype=np.float32)
    forward = Forward(generator, device=torch.device("cpu"), precision="float32")

    found = forward(tiles, weights)[0, 0]

    assert is_supported(config)
    lr = torch.from_numpy(tiles / 65535).permute(0, 3, 1, 2)
    fused = generator.double()(lr, ("fused",)).fused
    assert fused is not None
    true = postprocess(fused, lr)[0].mul(65535).permute(1, 2, 0).numpy()
    assert np.abs(found - true).max() < 1
