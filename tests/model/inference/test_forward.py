import copy
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from model.checkpoint import SHIPPED, load_checkpoint
from model.gdsr import GDSR, OUTPUTS, GDSRConfig, Output
from model.inference.forward import (
    Forward,
    NotFinite,
    Precision,
    _cpu_has_bfloat16,
    _picture,
    measure,
    prepare,
)
from model.postprocessing import postprocess

CPU = torch.device("cpu")
TINY = GDSRConfig(features=8, growth=4, shared=1, guide=1, lf=1, hf_extract=1, hf=1, mask=1)

Bytes = NDArray[np.uint8]


@pytest.fixture(scope="module")
def lite() -> GDSR:
    return load_checkpoint(SHIPPED / "lite.safetensors").generator


@pytest.fixture(scope="module")
def exact(lite: GDSR) -> Forward:
    return Forward(lite, device=CPU, precision="float32")


@pytest.fixture
def tiny() -> GDSR:
    torch.manual_seed(0)
    return GDSR(TINY)


def weights(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    """Blend shares of one result for each tile; rows without a fourth share leave out the mask."""
    return np.array([[(*row, 0.0)[:4]] for row in rows], dtype=np.float32)


def only(output: Output, *, tiles: int = 1) -> NDArray[np.float32]:
    return weights(*[tuple(float(output == other) for other in OUTPUTS)] * tiles)


def tiles(count: int, side: int = 24) -> Bytes:
    """Return different crops of one picture."""
    picture = _picture(side * 2)[0]
    return np.stack([picture[i : i + side, 2 * i : 2 * i + side] for i in range(count)])


def levels_apart(one: Bytes, other: Bytes) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def decibels(one: Bytes, other: Bytes) -> float:
    return 10 * math.log10(255**2 / np.square(one.astype(float) - other.astype(float)).mean())


@pytest.mark.parametrize("output", OUTPUTS)
def test_tiles_come_out_as_the_network_has_them(lite: GDSR, exact: Forward, output: Output) -> None:
    batch = tiles(2)
    with torch.inference_mode():
        lr = torch.from_numpy(batch).permute(0, 3, 1, 2) / 255
        image = postprocess(getattr(lite(lr), output), lr)
    expected = image.mul(255).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()

    found = exact(batch, only(output, tiles=2))

    assert found.shape == (2, 1, 96, 96, 3)
    assert found.dtype == np.uint8
    assert levels_apart(found[:, 0], expected) <= 1
    assert np.mean(found[:, 0] != expected) < 0.001  # exact halves may round either way


def test_a_blend_is_the_blend_of_the_outputs(exact: Forward) -> None:
    batch = tiles(3)
    shares = weights((0.5, 0.5, 0), (0, 0.25, 0.75), (0.2, 0.3, 0.5))
    alone = np.stack([exact(batch, only(output, tiles=3)) for output in OUTPUTS], axis=-1)

    found = exact(batch, shares)

    expected = (alone * shares[:, :, None, None, None, :3]).sum(axis=-1).round().astype(np.uint8)
    assert levels_apart(found, expected) <= 1
    assert levels_apart(alone[..., 0], alone[..., 2]) > 10


def test_tiles_of_one_batch_do_not_touch_each_other(exact: Forward) -> None:
    batch = tiles(3)
    mixed = weights((1, 0, 0), (0, 1, 0), (0, 0, 1))

    together = exact(batch, mixed)

    for i, tile in enumerate(batch):
        assert levels_apart(together[i : i + 1], exact(tile[None], mixed[i : i + 1])) <= 1


def test_only_wanted_outputs_are_computed(tiny: GDSR) -> None:
    forward = Forward(tiny, device=CPU, precision="float32")
    asked: list[list[Output]] = []
    forward._ready.register_forward_pre_hook(lambda _, args: asked.append(args[1]))

    forward(tiles(2), weights((1, 0, 0), (1, 0, 0)))
    forward(tiles(2), weights((0, 0, 1), (0, 0.5, 0.5)))

    assert asked == [["psnr"], ["fused", "gan"]]


KEPT = np.eye(4, dtype=np.float32)[None]  # every output and the mask of one tile


@pytest.mark.parametrize("consistent", [False, True])
def test_several_results_of_a_tile_are_those_that_it_gives_one_by_one(
    exact: Forward,
    consistent: bool,  # noqa: FBT001
) -> None:
    batch = tiles(2)
    together = exact(batch, KEPT.repeat(2, axis=0), consistent=consistent)

    assert together.shape == (2, 4, 96, 96, 3)
    for place, output in enumerate((*OUTPUTS, "mask")):
        rows = np.eye(4, dtype=np.float32)[[[place]] * 2]
        alone = exact(batch, rows, consistent=consistent)
        assert levels_apart(together[:, place], alone[:, 0]) <= 1, output


def test_several_results_take_one_pass_through_the_network(tiny: GDSR) -> None:
    forward = Forward(tiny, device=CPU, precision="float32")
    asked: list[list[Output]] = []
    forward._ready.register_forward_pre_hook(lambda _, args: asked.append(args[1]))

    forward(tiles(1), KEPT)
    forward(tiles(1), KEPT[:, :2])

    assert asked == [["psnr", "fused", "gan", "mask"], ["psnr", "fused"]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_mask_is_the_mean_over_features_as_a_grey_image(lite: GDSR, kind: type) -> None:
    full = np.iinfo(kind).max
    exact = Forward(lite, device=CPU, precision="float32")
    batch = tiles(1).astype(kind) * (full // 255)
    with torch.inference_mode():
        shown = torch.from_numpy(batch.astype(np.float32)).permute(0, 3, 1, 2) / full
        shared = lite.shared(lite.first(shown))
        expected = torch.sigmoid(lite.mask(shared)).mean(dim=1)[0].numpy() * full

    found = exact(batch, KEPT[:, 3:], consistent=True)

    assert found.dtype == kind
    assert (found == found[..., :1]).all()
    assert np.abs(found[0, 0, ..., 0] - expected).max() <= 0.51 * (full // 255)
    assert found.min() < 0.42 * full < 0.5 * full < found.max()


def test_weights_of_nothing_are_refused(tiny: GDSR) -> None:
    with pytest.raises(ValueError, match="outputs are of psnr, fused, gan, mask"):
        Forward(tiny, device=CPU, precision="float32")(tiles(1), weights((0, 0, 0)))


@pytest.mark.parametrize("output", OUTPUTS)
def test_white_stays_white_and_black_black(exact: Forward, output: Output) -> None:
    for level in (255, 0):
        flat = np.full((1, 48, 48, 3), level, dtype=np.uint8)
        inner = exact(flat, only(output))[:, :, 64:-64, 64:-64]
        assert levels_apart(inner, np.full_like(inner, level)) <= 3


def test_values_are_rounded_and_kept_in_range(tiny: GDSR) -> None:
    forward = Forward(tiny, device=CPU, precision="float32")
    nn.init.normal_(forward._ready.lf_to_rgb.weight, std=30)
    batch = tiles(2)
    values = forward.blend(batch, only("psnr").repeat(2, axis=0)).images[0]

    assert (values.min(), values.max()) == (0, 1)
    expected = (255 * values).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(forward(batch, only("psnr").repeat(2, axis=0))[:, 0], expected)


def test_read_only_and_strided_tiles_are_accepted(tiny: GDSR) -> None:
    forward = Forward(tiny, device=CPU, precision="float32")
    wide = _picture(32)
    wide.flags.writeable = False
    view = wide[:, ::2, 4:20]

    assert np.array_equal(
        forward(view, only("psnr")), forward(np.ascontiguousarray(view).copy(), only("psnr"))
    )


@pytest.mark.parametrize("output", OUTPUTS)
def test_bfloat16_is_close_to_float32(lite: GDSR, exact: Forward, output: Output) -> None:
    if not _cpu_has_bfloat16():
        pytest.skip("this CPU has no instructions for bfloat16")
    quick = Forward(lite, device=CPU, precision="bfloat16")
    picture = _picture(64)

    assert decibels(quick(picture, only(output)), exact(picture, only(output))) >= 50


def overflows_half_precision(generator: GDSR) -> GDSR:
    """Return an equal network whose intermediate values overflow float16."""
    generator = copy.deepcopy(generator)
    with torch.no_grad():
        generator.lf.tail.hr.weight *= 2.0**20
        generator.lf.tail.hr.bias *= 2.0**20
        generator.lf_to_rgb.weight /= 2.0**20
    return generator


def test_tiles_that_are_not_finite_are_computed_again_in_float32(tiny: GDSR) -> None:
    forward = Forward(overflows_half_precision(tiny), device=CPU, precision="float16")
    batch = tiles(2)
    assert not forward.blend(batch, only("psnr", tiles=2)).finite.any()

    found = forward(batch, only("psnr", tiles=2))

    exact = Forward(tiny, device=CPU, precision="float32")
    assert levels_apart(found, exact(batch, only("psnr", tiles=2))) <= 1


def test_only_broken_tiles_are_computed_again(tiny: GDSR) -> None:
    forward = Forward(overflows_half_precision(tiny), device=CPU, precision="float16")
    asked: list[int] = []
    forward._exact = forward._converted("float32")
    forward._exact.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))

    forward(tiles(3), weights((0, 0, 1), (1, 0, 0), (0, 0, 1)))

    assert asked == [1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tiles_that_are_not_finite_in_float32_either_are_an_error(
    tiny: GDSR, bad: float, precision: Precision
) -> None:
    nn.init.constant_(tiny.hf_to_rgb.bias, bad)
    forward = Forward(tiny, device=CPU, precision=precision)

    with pytest.raises(NotFinite):
        forward(tiles(1), only("gan"))
    assert forward(tiles(1), only("fused")).shape == (1, 1, 96, 96, 3)


def test_a_device_gets_a_precision_that_it_does_right(lite: GDSR) -> None:
    forward = prepare(lite, device="cpu", precision=None, tile=32)

    assert forward.precision in (("float32", "bfloat16") if _cpu_has_bfloat16() else ("float32",))


def test_a_network_that_half_precision_spoils_runs_in_float32(lite: GDSR) -> None:
    fragile = copy.deepcopy(lite)
    with torch.no_grad():
        # The function is the same except at the border: the last bias cancels the large one.
        fragile.lf.tail.hr.bias += 1000
        fragile.lf_to_rgb.bias -= 1000 * fragile.lf_to_rgb.weight.sum(dim=(1, 2, 3))
    assert prepare(fragile, device="cpu", precision=None, tile=16).precision == "float32"


def test_a_configured_precision_is_used(tiny: GDSR) -> None:
    for precision in ("float32", "bfloat16", "float16"):
        assert prepare(tiny, device="cpu", precision=precision, tile=16).precision == precision


def test_a_given_precision_that_does_not_work_is_an_error(tiny: GDSR) -> None:
    with pytest.raises(NotFinite, match="not finite in float16 on cpu"):
        prepare(overflows_half_precision(tiny), device="cpu", precision="float16", tile=16)


def test_a_network_that_is_not_finite_at_all_is_an_error(tiny: GDSR) -> None:
    nn.init.constant_(tiny.fused_to_rgb.bias, math.nan)

    with pytest.raises(NotFinite, match="not finite in float32 on cpu"):
        prepare(tiny, device="cpu", precision=None, tile=16)


def test_speed_is_measured_for_every_output(tiny: GDSR) -> None:
    speed = measure(prepare(tiny, device="cpu", precision="float32", tile=16), tile=16)

    assert list(speed) == list(OUTPUTS)
    assert all(value > 0 for value in speed.values())


def test_the_given_generator_stays_as_it_was(tiny: GDSR) -> None:
    before = copy.deepcopy(tiny.state_dict())

    prepare(tiny, device="cpu", precision="bfloat16", tile=16)

    assert all(torch.equal(tiny.state_dict()[name], was) for name, was in before.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_within_one_level_of_the_cpu(lite: GDSR, exact: Forward) -> None:
    forward = prepare(lite, device="cuda", precision=None, tile=64)
    picture = _picture(64)

    for output in OUTPUTS:
        assert levels_apart(forward(picture, only(output)), exact(picture, only(output))) <= 1
