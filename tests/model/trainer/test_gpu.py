"""Training on CUDA matches the CPU; these tests are skipped without a CUDA device."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.resize import bicubic_down
from model.trainer.config import TrainConfig
from model.trainer.data.batches import Batch, cut
from model.trainer.data.photographs import find_photographs, read_photographs
from model.trainer.degradations.degradations import Degradation, Shares, shrink
from model.trainer.loop import train
from model.trainer.parallel import Processes
from model.trainer.step.networks import build_networks, build_optimisers
from model.trainer.step.step import GraphedStep, Step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
Configure = Callable[..., TrainConfig]


def test_bicubic_gives_the_bytes_of_the_cpu() -> None:
    images = torch.randint(0, 256, (4, 3, 256, 320), dtype=torch.uint8)

    assert torch.equal(bicubic_down(images.cuda()).cpu(), bicubic_down(images))


def test_patches_are_those_of_the_cpu(photographs: Path) -> None:
    found = read_photographs(find_photographs(photographs), folder=photographs, side=64)
    picks = torch.tensor([(0, 3, 5, turn) for turn in range(8)])
    device = torch.device("cuda")

    there = cut(found.to(device), picks.to(device), side=64, context=8)

    assert torch.equal(there.cpu(), cut(found, picks, side=64, context=8))


def test_real_degradations_run_on_the_device() -> None:
    hr = torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8, device="cuda")
    mix = Degradation(shares=Shares(bicubic=1.0, light=1.0, full=1.0))

    lr = shrink(hr, mix, torch.Generator("cuda").manual_seed(0))

    assert lr.shape == (4, 3, 64, 64)
    assert lr.is_cuda


@pytest.mark.parametrize("preset", ["smoke", "smoke_adversarial", "base_adversarial"])
def test_a_captured_step_is_the_step(configure: Configure, preset: str) -> None:
    config = configure(preset, "device.compile=false", "device.precision=float32")
    device = torch.device("cuda")
    random = torch.Generator(device).manual_seed(0)
    batches = [
        Batch(
            lr=torch.rand(2, 3, 16, 16, device=device, generator=random),
            hr=torch.rand(2, 3, 64, 64, device=device, generator=random),
        )
        for _ in range(8)
    ]
    terms = []
    for graphed in (False, True):
        networks = build_networks(config, device)
        optimisers = build_optimisers(config, networks, device)
        step = Step(config, networks, optimisers, Processes(rank=0, count=1, device=device))
        take = GraphedStep(step) if graphed else step
        for batch in batches:
            last = take(batch)
        terms.append({name: float(value) for name, value in last.items()})

    assert terms[1] == pytest.approx(terms[0], rel=1e-2)


@pytest.mark.parametrize("keep", ["device", "host"])
def test_a_run_in_bfloat16_compiled_and_captured_learns(
    configure: Configure, tmp_path: Path, keep: str
) -> None:
    config = configure("smoke", "run.steps=60", f"data.keep={keep}", "optimiser.ema=0")

    train(config, tmp_path, resume=False, quiet=True)
    train(config, tmp_path, resume=True, quiet=True)

    events = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert [event["step"] for event in events if event["event"] == "end"] == [60, 60]
