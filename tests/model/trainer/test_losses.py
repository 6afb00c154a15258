import math

import pytest
import torch
from random_weights import random_vgg
from torch import Tensor

from model.metrics.vgg import VGG
from model.postprocessing import back_projected
from model.resize import bicubic_down, inner, mirrored
from model.trainer.losses import (
    Game,
    adversarial_loss,
    discriminator_loss,
    mask_loss,
    perceptual_loss,
    pixel_loss,
)
from model.trainer.step.discriminators import SpectralConv, UNetDiscriminator, VGGDiscriminator

GAMES: tuple[Game, ...] = ("relativistic", "logistic")


def logits(seed: int) -> Tensor:
    return torch.randn(5, 1, generator=torch.Generator().manual_seed(seed))


def test_the_generator_plays_the_relativistic_game_with_the_sides_swapped() -> None:
    real, fake = logits(0), logits(1)

    ours = adversarial_loss(real=real, fake=fake, game="relativistic")

    assert ours == discriminator_loss(real=fake, fake=real, game="relativistic")


@pytest.mark.parametrize("game", GAMES)
def test_a_discriminator_that_knows_nothing_loses_a_bit(game: Game) -> None:
    same = torch.zeros(4, 1)

    assert discriminator_loss(real=same, fake=same, game=game) == pytest.approx(math.log(2))
    assert adversarial_loss(real=same, fake=same, game=game) == pytest.approx(math.log(2))


@pytest.mark.parametrize("game", GAMES)
def test_gains_of_the_discriminator_are_losses_of_the_generator(game: Game) -> None:
    sure = discriminator_loss(real=logits(0) + 4, fake=logits(1) - 4, game=game)
    unsure = discriminator_loss(real=logits(0), fake=logits(1), game=game)
    caught = adversarial_loss(real=logits(0) + 4, fake=logits(1) - 4, game=game)
    free = adversarial_loss(real=logits(0), fake=logits(1), game=game)

    assert sure < unsure
    assert caught > free


def test_only_differences_count_in_the_relativistic_game() -> None:
    real, fake = logits(0), logits(1)

    moved = discriminator_loss(real=real + 3, fake=fake + 3, game="relativistic")

    assert moved == pytest.approx(
        float(discriminator_loss(real=real, fake=fake, game="relativistic")), rel=1e-5
    )


def test_pixel_loss_does_not_care_which_is_which() -> None:
    one, other = torch.rand(2, 2, 3, 8, 8)

    assert pixel_loss(one, other) == pixel_loss(other, one)
    assert pixel_loss(one, one) == 0


def test_the_mask_is_drawn_up_in_texture_and_down_in_flat_areas() -> None:
    hr = torch.full((1, 3, 96, 192), 0.5)
    hr[..., 96:] = torch.rand(96, 96, generator=torch.Generator().manual_seed(0))
    mask = torch.full((1, 1, 96, 192), 0.6, requires_grad=True)

    mask_loss(mask, hr).backward()

    assert mask.grad is not None
    assert bool((mask.grad[..., :70] > 0).all())
    assert bool((mask.grad[..., 122:] < 0).all())


def test_taps_are_weighted() -> None:
    one, other = [torch.zeros(1, 2), torch.zeros(1, 2)], [torch.ones(1, 2), torch.full((1, 2), 3.0)]

    assert perceptual_loss(one, other, weights=[1.0, 0.5]) == pytest.approx(2.5)


def test_back_projection_shrinks_to_what_it_was_made_from() -> None:
    sr, lr = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 16, 16)
    before = (bicubic_down(sr) - lr).abs().mean()

    after = (bicubic_down(back_projected(sr, lr)) - lr).abs().mean()

    assert after < 0.6 * before


def test_gradients_pass_through_back_projection() -> None:
    sr = torch.rand(1, 3, 16, 16, requires_grad=True)

    back_projected(sr, torch.rand(1, 3, 4, 4)).sum().backward()

    assert sr.grad is not None
    assert torch.isfinite(sr.grad).all()


def test_a_margin_is_cut_from_every_side() -> None:
    images = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 3, 16, 16)

    kept = inner(images, 4)

    assert kept.shape == (1, 3, 8, 8)
    assert kept[0, 0, 0].tolist() == list(range(4, 12))
    assert inner(images, 0).shape == images.shape


def test_beyond_the_border_an_image_is_its_mirror_image() -> None:
    images = torch.arange(4.0).expand(1, 3, 4, 4)

    wider = mirrored(images, 2)

    assert wider[0, 0, 0].tolist() == [1, 0, 0, 1, 2, 3, 3, 2]
    assert torch.equal(inner(wider, 2), images)
    assert mirrored(images, 6)[0, 0, 0].tolist() == [2, 3, 3, 2, 1, 0, *range(4), 3, 2, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("convolutions", "taps", "channels"),
    [(13, ("conv1_2", "conv5_3"), (64, 512)), (16, ("conv5_4", "conv3_4"), (512, 256))],
)
def test_features_are_those_of_the_taps_in_their_order(
    convolutions: int, taps: tuple[str, ...], channels: tuple[int, ...]
) -> None:
    vgg = VGG(random_vgg(convolutions=convolutions, divisor=4), taps)

    features = vgg(torch.rand(2, 3, 32, 32))

    sides = [32 >> (int(tap[4]) - 1) for tap in taps]
    shapes = [(2, count // 4, side, side) for count, side in zip(channels, sides, strict=True)]
    assert [tuple(each.shape) for each in features] == shapes
    assert all((each < 0).any() for each in features)  # taken before the activation


def test_features_do_not_learn_but_let_gradients_through() -> None:
    vgg = VGG(random_vgg(convolutions=13, divisor=16), ["conv2_1"])
    images = torch.rand(1, 3, 16, 16, requires_grad=True)

    vgg(images)[0].sum().backward()

    assert images.grad is not None
    assert all(each.grad is None for each in vgg.parameters())


def test_an_unknown_tap_is_named() -> None:
    with pytest.raises(ValueError, match="conv5_4"):
        VGG(random_vgg(convolutions=13, divisor=16), ["conv5_4"])


def test_weights_that_are_no_vgg_are_refused() -> None:
    with pytest.raises(ValueError, match="VGG16 has 13, VGG19 has 16"):
        VGG({"features.0.weight": torch.zeros(4, 3, 3, 3)}, ["conv1_1"])


def test_the_vgg_discriminator_is_the_references() -> None:
    discriminator = VGGDiscriminator(side=128)

    assert sum(each.numel() for each in discriminator.parameters()) == 14_502_281
    assert discriminator.features(torch.rand(1, 3, 128, 128)).shape == (1, 512, 4, 4)
    with pytest.raises(ValueError, match="multiple of 32"):
        VGGDiscriminator(side=100)


def test_the_unet_judges_every_pixel() -> None:
    discriminator = UNetDiscriminator(features=8)

    assert discriminator(torch.rand(2, 3, 40, 40)).shape == (2, 1, 40, 40)
    assert sum(each.numel() for each in UNetDiscriminator().parameters()) == 4_376_897


def test_a_spectral_convolutions_largest_singular_value_becomes_one() -> None:
    torch.manual_seed(0)
    conv = SpectralConv(6, 10, kernel_size=3)
    for _ in range(30):
        conv(torch.rand(1, 6, 4, 4))

    largest = torch.linalg.svdvals(conv.weight.detach().flatten(1))[0]

    estimate = torch.dot(conv.left, conv.weight.detach().flatten(1).mv(conv.right))
    assert float(estimate) == pytest.approx(float(largest), rel=1e-3)


def test_a_spectral_convolution_can_be_used_twice_before_the_backward_pass() -> None:
    conv = SpectralConv(3, 4, kernel_size=3)

    (conv(torch.rand(1, 3, 4, 4)) + conv(torch.rand(1, 3, 4, 4))).sum().backward()

    assert conv.weight.grad is not None


def test_a_discriminator_stands_still_when_it_is_not_trained() -> None:
    discriminator = UNetDiscriminator(features=4).eval()
    before = {name: each.clone() for name, each in discriminator.state_dict().items()}

    discriminator(torch.rand(1, 3, 16, 16))

    assert all(torch.equal(each, before[name]) for name, each in discriminator.state_dict().items())
