import pytest
import torch
from reference_gdsr import PRESET_SIZES, plain_gdsr, random_state
from torch import Tensor, nn

from model.blocks import RRDB, Enlarge, FoldedEnlarge
from model.checkpoint import build_generator
from model.gdsr import GDSR, OUTPUTS, PRESETS, GDSRConfig, Output
from model.reference import translate

TINY = GDSRConfig(features=8, growth=4, shared=1, guide=2, lf=1, hf_extract=1, hf=2, mask=1)

#: Parts that each output does not need.
UNNEEDED: dict[Output, tuple[str, ...]] = {
    "psnr": ("hf_extract", "hf_merge", "hf", "mask", "hf_to_rgb", "fused_to_rgb"),
    "gan": ("lf", "mask", "lf_to_rgb", "fused_to_rgb"),
    "fused": ("lf_to_rgb", "hf_to_rgb"),
}


def random_image(*, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def tiny() -> GDSR:
    torch.manual_seed(0)
    return GDSR(TINY).eval()


@pytest.mark.parametrize(
    ("preset", "height", "width"),
    [
        ("lite", 1, 1),
        ("lite", 17, 9),
        ("lite", 24, 24),
        ("base", 7, 13),
        ("base", 1, 1),
        ("paper", 3, 5),
    ],
)
@torch.inference_mode()
def test_outputs_equal_the_formulas_of_the_paper(preset: str, height: int, width: int) -> None:
    features, growth, lengths = PRESET_SIZES[preset]
    state = random_state(features, growth, lengths)
    lr = random_image(height=height, width=width, batch=2)
    expected = plain_gdsr(state, lengths, lr)

    config, translated = translate(state)
    found = build_generator(config, translated)(lr)

    assert config == PRESETS[preset]
    for output in OUTPUTS:
        assert expected[output].std() > 0.01
        torch.testing.assert_close(getattr(found, output), expected[output], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("paper", 27_142_601), ("base", 10_595_849), ("lite", 2_292_937)],
)
def test_presets_have_the_published_number_of_parameters(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        generator = GDSR(PRESETS[preset])

    assert sum(parameter.numel() for parameter in generator.parameters()) == parameters


@pytest.mark.parametrize("output", OUTPUTS)
@torch.inference_mode()
def test_an_output_does_not_depend_on_what_it_does_not_need(output: Output) -> None:
    generator, lr = tiny(), random_image(height=5, width=6)
    expected = getattr(generator(lr, (output,)), output)

    for part in UNNEEDED[output]:
        for parameter in generator.get_submodule(part).parameters():
            parameter.fill_(torch.nan)
    found = getattr(generator(lr, (output,)), output)

    assert torch.equal(found, expected)


@pytest.mark.parametrize("output", OUTPUTS)
@torch.inference_mode()
def test_an_output_runs_only_the_parts_that_it_needs(output: Output) -> None:
    generator = tiny()
    ran: set[str] = set()
    for name, part in generator.named_children():
        part.register_forward_hook(lambda *_, name=name: ran.add(name))

    generator(random_image(height=4, width=4), (output,))

    parts = {name for name, _ in generator.named_children()}
    assert ran == parts - set(UNNEEDED[output])


@torch.inference_mode()
def test_several_outputs_of_one_call_equal_those_of_separate_calls() -> None:
    generator, lr = tiny(), random_image(height=6, width=5)

    together = generator(lr)

    for output in OUTPUTS:
        alone = generator(lr, (output,))
        assert torch.equal(getattr(together, output), getattr(alone, output))
        assert [getattr(alone, other) is None for other in OUTPUTS].count(False) == 1


@pytest.mark.parametrize("outputs", [(), ("sharp",), ("psnr", "lf")])
def test_unknown_outputs_are_refused(outputs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="outputs are of psnr, fused, gan, mask"):
        tiny()(random_image(height=2, width=2), outputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (8, 3)])
@torch.inference_mode()
def test_every_precision_and_size_gives_images_four_times_larger(
    dtype: torch.dtype, height: int, width: int
) -> None:
    generator = tiny().to(dtype)

    images = generator(random_image(height=height, width=width, batch=2).to(dtype))

    assert images.mask is None
    for image in (images.psnr, images.fused, images.gan):
        assert image.shape == (2, 3, 4 * height, 4 * width)
        assert image.dtype == dtype
        assert image.isfinite().all()


@torch.inference_mode()
def test_the_mask_says_how_much_of_each_branch_was_fused() -> None:
    generator, lr = tiny(), random_image(height=5, width=6, batch=2)

    for level in (0.0, 1.0):
        # After the tail's activation, the sigmoid of these biases is 0 and 1.
        nn.init.zeros_(generator.mask.tail.hr.weight)
        nn.init.constant_(generator.mask.tail.hr.bias, 200 if level else -1000)
        found = generator(lr, ("mask",))

        assert (found.psnr, found.fused, found.gan) == (None, None, None)
        assert found.mask.shape == (2, 1, 20, 24)
        assert (found.mask == level).all()


def test_gradients_reach_every_parameter() -> None:
    generator = tiny().train()

    images = generator(random_image(height=4, width=4))
    sum(getattr(images, output).square().mean() for output in OUTPUTS).backward()

    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in generator.parameters()
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 8)])
@torch.inference_mode()
def test_folding_an_enlargement_changes_nothing_but_rounding(height: int, width: int) -> None:
    torch.manual_seed(0)
    enlarge = Enlarge(16)
    nn.init.normal_(enlarge.conv.weight)
    x = torch.randn(2, 16, height, width)

    folded = FoldedEnlarge(enlarge)(x)

    torch.testing.assert_close(folded, enlarge(x), atol=2e-5, rtol=1e-5)


def test_widening_a_block_changes_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    block = RRDB(features=16, growth=8).requires_grad_(requires_grad=False)
    x = torch.randn(2, 16, 9, 7)
    expected = block(x)

    block.widen()

    torch.testing.assert_close(block(x), expected, atol=2e-5, rtol=1e-5)
    assert len(list(block.parameters())) == 3 * 6, "five kernels and one bias for each of three"
