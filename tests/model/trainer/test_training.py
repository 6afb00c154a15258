import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoint import load_checkpoint
from model.trainer import loop
from model.trainer.config import TrainConfig
from model.trainer.config_file import preset_names
from model.trainer.data.batches import Batch
from model.trainer.loop import train
from model.trainer.parallel import Processes
from model.trainer.run.run import BEST, STATE
from model.trainer.step.networks import build_networks, build_optimisers
from model.trainer.step.step import Step

Configure = Callable[..., TrainConfig]
ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def fit(config: TrainConfig, out: Path) -> None:
    train(config, out, resume=False, quiet=True)


def go_on(config: TrainConfig, out: Path) -> None:
    train(config, out, resume=True, quiet=True)


def records(out: Path, event: str) -> list[Mapping[str, Any]]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def state(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(out / STATE, weights_only=True)
    return found


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a state with its path."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from leaves(part, f"{name}.{place}")
    else:
        yield name, value


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


@contextmanager
def a_signal_after_step(out: Path, step: int) -> Iterator[None]:
    """Send this process SIGTERM after the log has that step, just before its next line."""
    log, line, plain = out / "log.jsonl", f'"event": "step", "step": {step},', Path.open

    def opened(path: Path, mode: str = "r", **more: Any) -> Any:
        if (path, mode) == (log, "a") and log.exists() and line in log.read_text():
            os.kill(os.getpid(), signal.SIGTERM)
            patch.undo()
        return plain(path, mode, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        yield


@pytest.mark.parametrize("preset", preset_names())
def test_a_step_of_every_preset_moves_all_that_it_may(configure: Configure, preset: str) -> None:
    config = configure(preset)
    torch.manual_seed(0)
    networks = build_networks(config, ALONE.device)
    optimisers = build_optimisers(config, networks, ALONE.device)
    before = {name: each.clone() for name, each in networks.generator.named_parameters()}

    terms = Step(config, networks, optimisers, ALONE)(
        Batch(
            lr=torch.rand(2, 3, 16, 16),
            hr=torch.rand(2, 3, 64, 64),
            teacher=torch.rand(2, 3, 64, 64),
        )
    )

    moved = {
        name.partition(".")[0]
        for name, each in networks.generator.named_parameters()
        if not torch.equal(each, before[name])
    }
    lf = {"first", "shared", "guide", "lf", "lf_to_rgb"}
    hf = {"hf_extract", "hf_merge", "hf", "hf_to_rgb"}
    mask = {"mask", "fused_to_rgb"}
    may = {
        "all": lf | hf | mask, "lf": {"lf", "lf_to_rgb"}, "hf": hf | mask, "mask": mask,
    }[config.generator.train]  # fmt: skip
    reached = {"psnr": lf, "gan": lf - {"lf", "lf_to_rgb"} | hf, "fused": lf | hf | mask}
    assert moved == may & set().union(*(reached[output] for output in config.losses.outputs))
    assert all(torch.isfinite(term) for term in terms.values())
    assert ("discriminator" in terms) == (config.losses.adversarial is not None)


@pytest.mark.parametrize(
    "preset", ["smoke", "smoke_adversarial", "base_real_gan", "base_real_mask"]
)
def test_a_run_leaves_a_checkpoint_with_an_honest_card(
    configure: Configure, tmp_path: Path, preset: str
) -> None:
    config = configure(preset, "run.steps=3", "run.log_every=1", "data.val_dir=")

    fit(config, tmp_path)

    checkpoint = load_checkpoint(tmp_path / BEST)
    assert [record["step"] for record in records(tmp_path, "end")] == [3]
    assert checkpoint.config == config.network
    assert checkpoint.card.scores == {}
    assert checkpoint.card.consistency is (config.degradation is None)
    assert "3 photographs of the folder photographs" in checkpoint.card.data
    assert "patches of 16x16 pixels" in checkpoint.card.training
    for name, term in asdict(config.losses).items():
        words = {"distill": "distillation", "dists": "DISTS", "mask": "texture (mask)"}
        if isinstance(term, dict):
            assert words.get(name, name) in checkpoint.card.training
    assert [record["step"] for record in records(tmp_path, "step")] == [1, 2, 3]
    assert [record["step"] for record in records(tmp_path, "validation")] == [0, 3]
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2


@pytest.mark.slow
def test_a_network_learns_one_pair_by_heart(
    configure: Configure, draw: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    draw(tmp_path / "one" / "only.png", width=64, height=64)
    config = configure(
        "smoke",
        f"data.hr_dir={tmp_path / 'one'}",
        "generator.size.features=8",
        "generator.size.growth=4",
        "optimiser.learning_rate=5e-3",
        "run.steps=80",
        "run.log_every=10",
        "validation.every=40",
    )

    fit(config, tmp_path / "run")

    first, *_, last = (record["terms"] for record in records(tmp_path / "run", "step"))
    scores = records(tmp_path / "run", "validation")
    assert all(last[name] < 0.5 * first[name] for name in first)
    assert scores[-1]["psnr"] > scores[0]["psnr"] + 6


@pytest.mark.parametrize(
    ("preset", "kind"),
    [
        ("smoke", "adam"),
        ("smoke", "soap"),
        ("smoke_adversarial", "adam"),
        ("base_real_gan", "soap"),
    ],
)
@pytest.mark.slow
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(
    configure: Configure, tmp_path: Path, preset: str, kind: str
) -> None:
    exact = ("device.precision=float32", "run.steps=8", "run.log_every=1", "optimiser.ema=0.5")
    config = configure(preset, *exact, f"optimiser.kind={kind}")
    fit(config, tmp_path / "whole")

    with a_signal_after_step(tmp_path / "parts", 3):
        fit(config, tmp_path / "parts")
    (stopped,) = records(tmp_path / "parts", "stopped")
    assert 3 <= stopped["step"] < 8
    assert state(tmp_path / "parts")["step"] == stopped["step"]
    go_on(config, tmp_path / "parts")

    assert [record["step"] for record in records(tmp_path / "parts", "end")] == [8]
    whole, parts = dict(leaves(state(tmp_path / "whole"))), dict(leaves(state(tmp_path / "parts")))
    assert whole.keys() == parts.keys()
    for name in whole.keys() - {".elapsed", ".validation"}:
        assert same(whole[name], parts[name]), name


def test_a_budget_in_minutes_ends_annealed_and_validated(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # a second at each look
    monkeypatch.setattr(loop, "time", clock)
    config = configure("smoke", "run.steps=1000000", "run.minutes=1", "run.log_every=1")

    fit(config, tmp_path)

    (end,), last = records(tmp_path, "end"), records(tmp_path, "step")[-1]
    assert 0 < end["step"] < 1_000_000
    assert last["learning_rate"] < 0.5 * config.optimiser.learning_rate
    assert records(tmp_path, "validation")[-1]["step"] == end["step"]
    assert state(tmp_path)["elapsed"] <= 60


def test_a_broken_photograph_is_not_what_validates(
    configure: Configure, draw: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "0.png").write_bytes(b"no picture")
    draw(folder / "1.png", width=60, height=60)
    for number in (2, 3):
        draw(folder / f"{number}.png", seed=number)

    fit(configure("smoke", "run.steps=1", f"data.hr_dir={folder}"), tmp_path / "run")

    (start,) = records(tmp_path / "run", "start")
    assert start["photographs"] == 1
    assert [Path(path).name for path in start["broken"]] == ["0.png"]


def test_a_folder_for_validation_among_the_photographs_is_not_trained_on(
    configure: Configure, draw: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "all" / "val").mkdir(parents=True)
    for number, name in enumerate(("0.png", "1.png", "val/2.png")):
        draw(tmp_path / "all" / name, seed=number)
    folders = f"data.hr_dir={tmp_path / 'all'}", f"data.val_dir={tmp_path / 'all' / 'val'}"

    fit(configure("smoke", "run.steps=1", *folders), tmp_path / "run")

    (start,) = records(tmp_path / "run", "start")
    assert start["photographs"] == 2


def test_the_best_weights_are_kept_and_not_the_last(configure: Configure, tmp_path: Path) -> None:
    config = configure(
        "smoke",
        "run.steps=6",
        "validation.every=2",
        "optimiser.learning_rate=0.3",
        "optimiser.ema=0",
    )

    fit(config, tmp_path)

    scores = records(tmp_path, "validation")
    best = max(scores, key=lambda record: record["psnr"])
    assert [record for record in scores if record["best"]][-1] == best
    assert f"{best['step']:,} steps" in load_checkpoint(tmp_path / BEST).card.training


def test_the_next_stage_starts_from_the_last_ones_weights(
    configure: Configure, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    fit(configure("smoke", "run.steps=2", "optimiser.ema=0"), first)

    second = configure("smoke_adversarial", f"generator.init={first / BEST}", "optimiser.ema=0")
    networks = build_networks(second, ALONE.device)

    expected = load_checkpoint(first / BEST).generator.state_dict()
    found = networks.generator.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_card_tells_of_the_stages_before(configure: Configure, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    fit(configure("smoke", "run.steps=2"), first)

    fit(configure("smoke_adversarial", f"generator.init={first / BEST}", "run.steps=3"), second)

    card = load_checkpoint(second / BEST).card

    assert card.training.startswith("3 steps")
    assert "started from smoke (2 steps" in card.training


def test_a_mirrored_patch_and_back_projection_give_losses_of_the_same_shape(
    configure: Configure,
) -> None:
    config = configure("smoke", "data.mirror=3", "losses.margin=2", "losses.back_projection=true")
    networks = build_networks(config, ALONE.device)
    optimisers = build_optimisers(config, networks, ALONE.device)
    batch = Batch(lr=torch.rand(2, 3, 16, 16), hr=torch.rand(2, 3, 64, 64))

    images, hr = Step(config, networks, optimisers, ALONE).images(batch)

    assert hr.shape == (2, 3, 48, 48)
    assert all(image.shape == hr.shape for image in images.values())
