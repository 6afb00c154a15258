"""A teacher's pictures are made once, cached and used for training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import load_checkpoint
from model.trainer.config import TrainConfig
from model.trainer.data.patterns import draw_pattern, enlarged
from model.trainer.data.teacher import (
    CachedBatches,
    load_teacher,
    shard_file,
    with_low_frequencies,
)
from model.trainer.errors import TrainingError
from model.trainer.loop import train
from model.trainer.parallel import Processes

Configure = Callable[..., TrainConfig]
ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))
CPU = torch.device("cpu")
ONCE = ("run.steps=1", "validation.samples=0")


def fit(config: TrainConfig, out: Path) -> None:
    train(config, out, resume=False, quiet=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def batch_of(config: TrainConfig, cache: Path, *, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    assert config.teacher is not None
    batch = CachedBatches(cache, config.teacher, config.data, seed=0, processes=ALONE).at(step)
    assert batch.teacher is not None
    return batch.lr, batch.hr, batch.teacher


def test_a_run_makes_the_cache_that_its_layout_documents(
    configure: Configure, tmp_path: Path
) -> None:
    fit(configure("lite_real_gan", *ONCE, "teacher.pictures=17"), tmp_path)

    shapes = {
        path.name: np.load(path).shape for path in sorted((tmp_path / "teacher").glob("*.npy"))
    }
    small, large = (16, 20, 20, 3), (16, 80, 80, 3)
    assert shapes == {
        f"{shard}.{kind}.npy": small if kind == "input" else large
        for shard in ("00000", "00001")
        for kind in ("input", "photograph", "teacher")
    }


def test_a_later_run_takes_the_pictures_that_are_there(
    configure: Configure, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    fit(configure("lite_real_gan", *ONCE, f"teacher.cache={cache}"), tmp_path / "one")
    first = contents(cache)

    fit(configure("base_real_gan", *ONCE, f"teacher.cache={cache}"), tmp_path / "two")
    assert contents(cache) == first

    # More pictures are added to the cached ones.
    more = ("teacher.pictures=32", f"teacher.cache={cache}")
    fit(configure("lite_real_gan", *ONCE, *more), tmp_path / "three")
    grown = contents(cache)
    assert {name: grown[name] for name in first} == first
    assert len(grown) == len(first) + 3


def test_texture_follows_the_photograph_or_the_teacher(
    configure: Configure, tmp_path: Path
) -> None:
    cache, terms = f"teacher.cache={tmp_path / 'cache'}", {}
    for target in ("photograph", "teacher"):
        more = cache, f"losses.dists.target={target}", "run.log_every=1"
        fit(configure("lite_real_gan", *ONCE, *more), tmp_path / target)
        lines = map(json.loads, (tmp_path / target / "log.jsonl").read_text().splitlines())
        terms[target] = next(line["terms"] for line in lines if line["event"] == "step")

    distances = [found.pop("dists_gan") for found in terms.values()]
    assert distances[0] != distances[1]
    assert terms["photograph"] == terms["teacher"]


def test_a_cache_that_was_interrupted_is_completed_to_the_same_bytes(
    configure: Configure, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    config = configure("lite_real_gan", *ONCE, "teacher.pictures=32", f"teacher.cache={cache}")
    fit(config, tmp_path / "one")
    whole = contents(cache)
    shard_file(cache, 1, "teacher").unlink()
    shard_file(cache, 1, "photograph").unlink()

    fit(config, tmp_path / "two")

    assert contents(cache) == whole


def test_the_same_crop_of_all_three_pictures_is_cut(configure: Configure, tmp_path: Path) -> None:
    config = configure("lite_real_gan", *ONCE, "data.patterns=1.0", "data.batch=8")
    fit(config, tmp_path)

    for step in range(4):
        lr, hr, taught = batch_of(config, tmp_path / "teacher", step=step)
        # A pattern's target is its bicubic enlargement, except near the borders of a patch.
        for small, large in zip(lr, hr, strict=True):
            again = enlarged(small.mul(255).round().to(torch.uint8)).float() / 255
            inside = (..., slice(8, -8), slice(8, -8))
            # Values are clamped to the range of the whole pattern.
            assert float((again - large)[inside].abs().max()) < 0.01
        assert torch.equal(hr, taught)


def test_batches_are_a_function_of_seed_and_step(configure: Configure, tmp_path: Path) -> None:
    config = configure("lite_real_gan", *ONCE, "data.batch=4")
    fit(config, tmp_path)
    cache = tmp_path / "teacher"

    assert all(map(torch.equal, batch_of(config, cache), batch_of(config, cache)))
    assert not torch.equal(batch_of(config, cache)[0], batch_of(config, cache, step=1)[0])
    assert config.teacher is not None
    halves = [
        CachedBatches(
            cache,
            config.teacher,
            config.data,
            seed=0,
            processes=Processes(rank=rank, count=2, device=CPU),
        ).at(0)
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([half.lr for half in halves]), batch_of(config, cache)[0])


def test_another_program_may_be_the_teacher(configure: Configure, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    config = configure("lite_real_gan", *ONCE, "teacher.file=", f"teacher.cache={cache}")

    with pytest.raises(TrainingError, match="1 of 1 teacher arrays are missing") as caught:
        fit(config, tmp_path / "one")
    assert "\n" not in str(caught.value)

    np.save(shard_file(cache, 0, "teacher"), np.full((16, 80, 80, 3), 9, dtype=np.uint8))
    fit(config, tmp_path / "two")
    assert bool((batch_of(config, cache)[2] == 9 / 255).all())


def test_a_cache_of_another_teacher_is_refused(configure: Configure, tmp_path: Path) -> None:
    cache = f"teacher.cache={tmp_path / 'cache'}"
    fit(configure("lite_real_gan", *ONCE, cache), tmp_path / "one")
    other = f"teacher.file={tmp_path / 'one' / 'best.safetensors'}"

    with pytest.raises(TrainingError, match="was made with another teacher: choose another"):
        fit(configure("lite_real_gan", *ONCE, cache, other), tmp_path / "two")
    with pytest.raises(TrainingError, match="was made with another degradation: choose another"):
        fit(configure("lite_real_gan", *ONCE, cache, "degradation.shares.full=9"), tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda cache: (cache / "cache.json").write_text("{}"),
            "does not describe a teacher's cache",
        ),
        (lambda cache: shard_file(cache, 0, "input").write_bytes(b"half"), "is damaged or missing"),
        (
            lambda cache: np.save(shard_file(cache, 0, "teacher"), np.zeros(3, dtype=np.uint8)),
            "not bytes of",
        ),
    ],
)
def test_a_damaged_cache_is_named_in_one_line(
    configure: Configure, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    config = configure("lite_real_gan", *ONCE, f"teacher.cache={tmp_path / 'cache'}")
    fit(config, tmp_path / "one")
    change(tmp_path / "cache")

    with pytest.raises(TrainingError) as caught:
        fit(config, tmp_path / "two")

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_teacher_of_another_architecture_is_named(configure: Configure, tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    torch.save({"conv_first.weight": torch.zeros(1)}, file)

    with pytest.raises(TrainingError, match=r"teacher\.file: .* is not an RRDB generator by 4"):
        fit(configure("lite_real_gan", *ONCE, f"teacher.file={file}"), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"teacher\.file: No such file"):
        fit(configure("lite_real_gan", *ONCE, f"teacher.file={file}2"), tmp_path / "run")


def test_a_teacher_with_weights_that_are_not_finite_is_refused(
    configure: Configure, teacher_file: Path, tmp_path: Path
) -> None:
    state = torch.load(teacher_file, weights_only=True)
    state["params_ema"]["conv_last.bias"][0] = torch.nan
    torch.save(state, tmp_path / "nan.pth")

    with pytest.raises(TrainingError, match=r"teacher\.file: tensor to_rgb\.bias has values that"):
        fit(configure("lite_real_gan", *ONCE, f"teacher.file={tmp_path / 'nan.pth'}"), tmp_path)


@pytest.mark.parametrize("output", ["gan", "psnr"])
def test_a_checkpoint_of_this_project_teaches_with_the_chosen_output(
    configure: Configure, tmp_path: Path, output: Literal["gan", "psnr"]
) -> None:
    fit(configure("smoke", *ONCE), tmp_path)
    file = tmp_path / "best.safetensors"
    lr = torch.rand(1, 3, 6, 5)

    taught = load_teacher(file, CPU, output=output)(lr)

    expected = getattr(load_checkpoint(file).generator(lr, (output,)), output)
    assert torch.allclose(taught, expected, atol=1e-5)


def test_a_cache_of_the_other_output_is_refused(configure: Configure, tmp_path: Path) -> None:
    fit(configure("smoke", *ONCE), tmp_path / "teacher")
    teacher = f"teacher.file={tmp_path / 'teacher' / 'best.safetensors'}"
    config = (*ONCE, teacher, f"teacher.cache={tmp_path / 'cache'}")
    fit(configure("lite_real_gan", *config), tmp_path / "one")

    with pytest.raises(TrainingError, match="made with another teacher"):
        fit(configure("lite_real_gan", *config, "teacher.output=psnr"), tmp_path / "two")


def test_a_teachers_colours_are_those_of_the_photograph() -> None:
    random = torch.Generator().manual_seed(0)
    photograph = torch.rand(1, 3, 96, 96, generator=random)
    tinted = photograph * 0.9 + torch.tensor([0.1, 0.0, -0.05]).view(1, 3, 1, 1)

    mended = with_low_frequencies(tinted, photograph)

    apart = (mended - photograph).mean((2, 3)).abs()
    assert float(apart.max()) < 2e-3
    assert float((tinted - photograph).mean((2, 3)).abs().max()) > 0.04


def test_patterns_are_enlarged_without_values_beyond_their_own() -> None:
    random = np.random.default_rng(0)

    for _ in range(80):
        pattern = draw_pattern(random, side=24)
        large = enlarged(pattern)
        assert pattern.shape == (3, 24, 24)
        assert large.shape == (3, 96, 96)
        for channel, original in zip(large, pattern, strict=True):
            assert int(channel.min()) >= int(original.min())
            assert int(channel.max()) <= int(original.max())


def test_the_cache_says_how_it_was_made(configure: Configure, tmp_path: Path) -> None:
    fit(configure("lite_real_gan", *ONCE), tmp_path)

    said = json.loads((tmp_path / "teacher" / "cache.json").read_text())

    assert said["side"] == 20
    assert said["degradation"]["shares"] == {"bicubic": 0.2, "light": 0.5, "full": 0.3}
    assert len(said["teacher"]) == 64
