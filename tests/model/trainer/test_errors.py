"""Errors are reported in one line, and the last good state is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from full_disk import files_no_larger_than
from torch import Tensor

from model.checkpoint import Card, load_checkpoint, save_checkpoint
from model.gdsr import GDSR, PRESETS
from model.trainer.config import TrainConfig
from model.trainer.errors import TrainingError
from model.trainer.loop import train
from model.trainer.run.export import export
from model.trainer.run.run import BEST, CONFIG, STATE

Configure = Callable[..., TrainConfig]


def fit(config: TrainConfig, out: Path) -> None:
    train(config, out, resume=False, quiet=True)


def go_on(config: TrainConfig, out: Path) -> None:
    train(config, out, resume=True, quiet=True)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_state_before(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure("smoke", "run.steps=50", "optimiser.learning_rate=1e30", "run.save_every=1")

    with pytest.raises(TrainingError) as caught:
        fit(config, tmp_path)

    (batch,) = tmp_path.glob("broken_step_*.safetensors")
    assert batch.name in str(caught.value)
    assert "\n" not in str(caught.value)
    generator: dict[str, Tensor] = torch.load(tmp_path / STATE, weights_only=True)["generator"]
    assert all(torch.isfinite(each).all() for each in generator.values())
    load_checkpoint(tmp_path / BEST)
    assert not list(tmp_path.glob("*.partial"))


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_was(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(optimiser: torch.optim.Adam) -> None:  # as after an infinite gradient
        optimiser.param_groups[0]["params"][0].data.fill_(torch.inf)

    monkeypatch.setattr(torch.optim.Adam, "step", overflow)
    config = configure("smoke", "run.steps=1", "validation.best=last")

    with pytest.raises(TrainingError, match=r"after step 1 tensor .* not finite; the last good"):
        fit(config, tmp_path)

    generator: dict[str, Tensor] = torch.load(tmp_path / STATE, weights_only=True)["generator"]
    assert all(torch.isfinite(each).all() for each in generator.values())
    assert "0 steps" in load_checkpoint(tmp_path / BEST).card.training


def test_weights_to_start_from_that_are_not_finite_are_named(
    configure: Configure, tmp_path: Path
) -> None:
    fit(configure("smoke", "run.steps=1"), tmp_path / "first")
    checkpoint = load_checkpoint(tmp_path / "first" / BEST)
    checkpoint.generator.get_parameter("first.bias").data[0] = torch.nan
    save_checkpoint(tmp_path / "nan.safetensors", checkpoint.generator, checkpoint.card)

    with pytest.raises(TrainingError, match=r"generator\.init: tensor first\.bias has values that"):
        fit(configure("smoke", f"generator.init={tmp_path / 'nan.safetensors'}"), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"tensor first\.bias has values that are not finite"):
        export(
            tmp_path / "nan.safetensors", tmp_path / "out.safetensors",
            report=None, name=None, licence=None,
        )  # fmt: skip
    assert not (tmp_path / "out.safetensors").exists()


def test_a_full_disk_leaves_the_configuration_to_resume_with(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure("smoke", "run.steps=1")
    fit(config, tmp_path)
    before = (tmp_path / CONFIG).read_text()

    with files_no_larger_than(100), pytest.raises(TrainingError, match="file is unchanged"):
        go_on(replace(config, run=replace(config.run, steps=8)), tmp_path)

    assert (tmp_path / CONFIG).read_text() == before


def test_a_run_resumes_without_the_weights_that_it_started_from(
    configure: Configure, tmp_path: Path
) -> None:
    fit(configure("smoke", "run.steps=1"), tmp_path / "first")
    config = configure("smoke", "run.steps=1", f"generator.init={tmp_path / 'first' / BEST}")
    fit(config, tmp_path / "second")
    (tmp_path / "first" / BEST).unlink()

    go_on(replace(config, run=replace(config.run, steps=2)), tmp_path / "second")

    assert torch.load(tmp_path / "second" / STATE, weights_only=True)["step"] == 2
    assert "started from smoke" in load_checkpoint(tmp_path / "second" / BEST).card.training


def test_a_full_disk_leaves_the_last_good_state(configure: Configure, tmp_path: Path) -> None:
    config = configure("smoke", "run.steps=4", "run.save_every=2")
    fit(config, tmp_path)
    longer = replace(config, run=replace(config.run, steps=8))

    with files_no_larger_than(20_000), pytest.raises(TrainingError, match="file is unchanged"):
        go_on(longer, tmp_path)

    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 4
    assert not list(tmp_path.glob("*.partial"))
    load_checkpoint(tmp_path / BEST)
    go_on(longer, tmp_path)
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 8


def test_weights_of_another_network_are_refused(configure: Configure, tmp_path: Path) -> None:
    card = Card(name="lite", training="none", data="none", scores={}, licence="Apache-2.0")
    save_checkpoint(tmp_path / "lite.safetensors", GDSR(PRESETS["lite"]), card)
    config = configure("smoke", f"generator.init={tmp_path / 'lite.safetensors'}")

    with pytest.raises(TrainingError, match="is another network: it has GDSRConfig"):
        fit(config, tmp_path / "run")


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_missing_or_broken_weights_are_named(
    configure: Configure, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(TrainingError, match=r"generator\.init"):
        fit(configure("smoke", f"generator.init={path}"), tmp_path / "run")
    with pytest.raises(TrainingError, match="VGG weights"):
        fit(configure("base_adversarial", f"losses.perceptual.file={path}"), tmp_path / "run")


def test_missing_vgg_weights_are_reported(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GDSR_VGG_WEIGHTS", raising=False)

    with pytest.raises(TrainingError, match=r"set losses\.perceptual\.file or GDSR_VGG_WEIGHTS"):
        fit(configure("base_adversarial", "losses.perceptual.file="), tmp_path)


def test_an_empty_folder_leaves_no_run_behind(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(TrainingError):
        fit(configure("smoke", f"data.hr_dir={tmp_path / 'empty'}"), tmp_path / "run")

    assert not (tmp_path / "run" / STATE).exists()


def test_a_folder_with_a_run_is_not_trained_over(configure: Configure, tmp_path: Path) -> None:
    fit(configure("smoke", "run.steps=1"), tmp_path)

    with pytest.raises(TrainingError, match="holds a run already"):
        fit(configure("smoke", "run.steps=1"), tmp_path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 half a file", [], {"format": 1, "generator": 3}])
def test_a_broken_state_is_not_resumed_from(
    configure: Configure, tmp_path: Path, content: object
) -> None:
    config = configure("smoke", "run.steps=1")
    fit(config, tmp_path)
    if isinstance(content, bytes):
        (tmp_path / STATE).write_bytes(content)
    else:
        torch.save(content, tmp_path / STATE)

    with pytest.raises(TrainingError, match="cannot be resumed from") as caught:
        go_on(config, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_network_is_not_resumed_from(
    configure: Configure, tmp_path: Path
) -> None:
    fit(configure("smoke", "run.steps=1"), tmp_path)

    with pytest.raises(TrainingError, match=r"cannot be resumed from: .* size mismatch for first"):
        go_on(configure("smoke", "run.steps=1", "generator.size.features=6"), tmp_path)


def test_a_full_disk_while_a_teachers_pictures_are_made_is_reported_in_one_line(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure("lite_real_gan", "run.steps=1", f"teacher.cache={tmp_path / 'cache'}")

    with files_no_larger_than(10_000), pytest.raises(TrainingError) as caught:
        fit(config, tmp_path / "run")

    assert "\n" not in str(caught.value)
    assert "input.npy" in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.npy"))
    fit(config, tmp_path / "run")  # with free space it continues
