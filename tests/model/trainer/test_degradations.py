import io
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.resize import bicubic_down, bicubic_up
from model.trainer.degradations.blur import SIDE, Blur, draw_kernels, draw_sinc, filtered
from model.trainer.degradations.degradations import (
    Degradation,
    Full,
    Light,
    Shares,
    _resized,
    shrink,
)
from model.trainer.degradations.jpeg import jpeg_round_trip
from model.trainer.degradations.random import Draws


def noise(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Return noise whose neighbours are similar, as in photographs."""
    small = torch.rand(shape[0], 3, shape[2] // 8 + 1, shape[3] // 8 + 1, generator=seeded(seed))
    large = F.interpolate(255 * small, size=shape[2:], mode="bicubic", align_corners=False)
    return (large + 8 * torch.randn(shape, generator=seeded(seed))).clamp(0, 255).round()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


FULL = Degradation(shares=Shares(full=1.0))


def decibels(ours: Tensor, theirs: Tensor) -> float:
    return 10 * math.log10(255**2 / float((ours.double() - theirs.double()).square().mean()))


def written_out(image: np.ndarray) -> np.ndarray:
    """Bicubic x1/4 of one channel, pixel by pixel, as defined in MATLAB's documentation."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    def columns(rows: np.ndarray) -> np.ndarray:
        small = np.zeros((rows.shape[0], rows.shape[1] // 4), dtype=np.uint8)
        for place in range(small.shape[1]):
            centre = 4 * place + 1.5
            total = np.zeros(rows.shape[0])
            for tap in range(4 * place - 6, 4 * place + 10):
                inside = min(max(tap, 0), rows.shape[1] - 1)
                total += kernel((centre - tap) / 4) / 4 * rows[:, inside]
            small[:, place] = np.floor(total.clip(0, 255) + 0.5)
        return small

    return columns(columns(image.T).T)


def test_bicubic_is_the_definition_bit_for_bit() -> None:
    image = noise(3, 40, 52)

    for channel, small in zip(image, bicubic_down(image), strict=True):
        assert np.array_equal(small.numpy(), written_out(channel.numpy()))


@pytest.mark.skipif(
    not os.environ.get("GDSR_BENCH_DIR"), reason="GDSR_BENCH_DIR names no benchmark folder"
)
def test_bicubic_is_the_public_benchmarks_bit_for_bit() -> None:
    pairs = 0
    for path in sorted(Path(os.environ["GDSR_BENCH_DIR"]).rglob("*_SRF_4_LR.png")):
        images = []
        for name in (path.name, path.name.replace("_LR", "_HR")):
            with Image.open(path.with_name(name)) as image:
                images.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))
        lr, hr = images
        height, width = lr.shape[1] * 4, lr.shape[2] * 4
        assert torch.equal(bicubic_down(hr[:, :height, :width]), lr), path
        pairs += 1
    if not pairs:
        pytest.skip("GDSR_BENCH_DIR has no *_SRF_4_LR.png")


def test_bicubic_keeps_a_flat_picture_flat() -> None:
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)

    assert (bicubic_down(flat) == 77).all()
    assert (bicubic_up(flat) == 77).all()


def test_a_batch_is_shrunk_like_each_of_its_pictures() -> None:
    batch = noise(3, 3, 32, 48)

    assert torch.equal(
        shrink(batch, None, seeded(0)), torch.stack([bicubic_down(each) for each in batch])
    )


def test_a_size_that_is_no_multiple_of_four_is_refused() -> None:
    with pytest.raises(ValueError, match="30x32 is not a multiple of 4"):
        bicubic_down(noise(3, 32, 30))


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 95])
def test_the_jpeg_round_trip_is_pillows(quality: int) -> None:
    image = smooth(1, 3, 91, 130)
    file = io.BytesIO()
    pixels = image[0].permute(1, 2, 0).to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        theirs = torch.from_numpy(np.array(opened)).permute(2, 0, 1)

    ours = jpeg_round_trip(image, torch.tensor([float(quality)]))[0]

    assert decibels(ours, theirs) > 46
    assert decibels(ours, theirs) > decibels(image[0], theirs) + 5


def test_jpeg_takes_a_quality_for_each_picture() -> None:
    image = smooth(1, 3, 32, 32).repeat(2, 1, 1, 1)
    low, high = jpeg_round_trip(image, torch.tensor([20.0, 95.0]))

    assert decibels(high, image[0]) > decibels(low, image[0]) + 3


def test_real_degradations_follow_their_generator() -> None:
    hr = smooth(2, 3, 128, 128).to(torch.uint8)
    once, again = (shrink(hr, FULL, seeded(4)) for _ in range(2))

    assert once.shape == (2, 3, 32, 32)
    assert once.dtype == torch.uint8
    assert torch.equal(once, again)
    assert not torch.equal(once, shrink(hr, FULL, seeded(5)))


def test_real_degradations_keep_what_a_picture_shows() -> None:
    hr = smooth(8, 3, 128, 128).to(torch.uint8)

    lr = shrink(hr, FULL, seeded(0))

    clean = bicubic_down(hr)
    small, other = F.avg_pool2d(lr.float(), 8), F.avg_pool2d(clean.float(), 8)
    assert float((small - other).abs().mean()) < 12
    assert float((lr.float() - clean.float()).abs().mean()) > 2


def test_the_light_recipe_stays_close_to_bicubic() -> None:
    hr = F.interpolate(smooth(8, 3, 32, 32), scale_factor=8, mode="bicubic").clamp(0, 255)
    hr = hr.round().to(torch.uint8)

    light = shrink(hr, Degradation(shares=Shares(light=1.0)), seeded(0))

    apart = (light.float() - bicubic_down(hr).float()).abs().mean((1, 2, 3))
    assert float(apart.max()) < 12
    assert float(apart.mean()) > 1


def test_a_light_recipe_that_does_nothing_is_bicubic() -> None:
    hr = noise(4, 3, 64, 64)
    nothing = Light(blur=0.0, noise=0.0, jpeg=0.0)

    small = shrink(hr, Degradation(shares=Shares(light=1.0), light=nothing), seeded(0))

    # The protocol rounds after each pass, the recipe only at the end.
    assert float((small.float() - bicubic_down(hr).float()).abs().max()) <= 1


def test_shares_are_the_frequencies_of_the_recipes() -> None:
    hr = smooth(64, 3, 64, 64).to(torch.uint8)

    small = shrink(hr, Degradation(shares=Shares(bicubic=3.0, full=1.0)), seeded(1))

    plain = (small == bicubic_down(hr)).flatten(1).all(1)
    assert 40 <= int(plain.sum()) <= 56


def test_every_picture_of_a_batch_is_degraded_in_its_own_way() -> None:
    hr = smooth(1, 3, 128, 128).to(torch.uint8).repeat(4, 1, 1, 1)

    lr = shrink(hr, FULL, seeded(0))

    assert len({each.numpy().tobytes() for each in lr}) == 4


def test_kernels_of_all_kinds_add_up_to_one() -> None:
    draws = Draws(64, seeded(0))

    for kernels in (draw_kernels(Full().first.blur, draws), draw_sinc(1.0, draws)):
        assert kernels.shape == (64, SIDE, SIDE)
        assert torch.allclose(kernels.sum((1, 2)), torch.ones(64), atol=1e-5)
        assert torch.isfinite(kernels).all()


def test_a_blur_that_never_comes_changes_nothing() -> None:
    never: Blur = replace(Full().first.blur, probability=0.0)
    image = smooth(2, 3, 40, 40)

    kernels = draw_kernels(never, Draws(2, seeded(0)))

    assert torch.allclose(filtered(image, kernels), image, atol=1e-3)


def test_filtering_is_a_convolution_with_repeated_borders() -> None:
    image = smooth(2, 3, 37, 37)
    kernels = draw_kernels(Full().first.blur, Draws(2, seeded(1)))

    expected = torch.cat(
        [
            F.conv2d(
                F.pad(image[[place]], (10,) * 4, mode="replicate"),
                kernels[place].expand(3, 1, SIDE, SIDE),
                groups=3,
            )
            for place in range(2)
        ]
    )

    assert torch.allclose(filtered(image, kernels), expected, atol=1e-2)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    image = smooth(6, 3, 24, 24)
    size = torch.full((6,), 24)

    same = _resized(image, size, size, side=24, draws=Draws(6, seeded(0)))

    assert torch.allclose(same, image, atol=1e-3)


def test_resizing_repeats_the_border_beyond_a_picture() -> None:
    image = smooth(3, 3, 24, 24)
    sizes, resized = torch.full((3,), 24), torch.tensor([12, 20, 30])

    canvas = _resized(image, sizes, resized, side=32, draws=Draws(3, seeded(0)))

    for each, size in zip(canvas, resized.tolist(), strict=True):
        border = each[:, :, size - 1 : size].expand(-1, -1, 32 - size)
        assert torch.allclose(each[:, :, size:], border, atol=1e-3)
