"""Benchmark of the training loop: its overhead over the network's own computation.

Compares the real loop, with its data, averages, clipping, log and checks, to a bare loop of the
same forward, backward and update on constant tensors. They run alternately, so that a slowdown of
the machine affects both.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from deploy.bench.timing import Figures, wait
from model.gdsr import SCALE
from model.trainer.config import TrainConfig
from model.trainer.data.batches import Batch
from model.trainer.loop import train
from model.trainer.parallel import Processes
from model.trainer.precision import takes_bfloat16
from model.trainer.run.log import read_log
from model.trainer.step.networks import build_networks, build_optimisers
from model.trainer.step.step import GraphedStep, Step, Terms


def bench_train(config: TrainConfig, *, rounds: int, steps: int) -> dict[str, Any]:
    """Steps per second of both loops, `rounds` times `steps` steps, after as many for warm-up.

    `single` is the bare loop in float32, if the run uses bfloat16.

    Without `data.hr_dir` it trains on random noise.

    Raises:
        TrainingError: the configuration cannot be trained.
    """
    real, bare, single = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        config = _brief(config, Path(folder), steps)
        device = torch.device(
            "cuda" if torch.cuda.is_available() and config.device.name != "cpu" else "cpu"
        )
        for turn in range(rounds):
            bare.append(_bare(config, device, steps))
            if config.device.precision == "bfloat16" and takes_bfloat16(device):
                plain = replace(config, device=replace(config.device, precision="float32"))
                single.append(_bare(plain, device, steps))
            real.append(_real(config, Path(folder) / f"run{turn}", steps))
    rows = {"real loop": Figures(tuple(real)), "bare loop": Figures(tuple(bare))}
    rows["ratio"] = rows["real loop"] / rows["bare loop"]
    if single:
        rows["in float32"] = Figures(tuple(single))
        rows["bfloat16 x"] = rows["bare loop"] / rows["in float32"]
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{config.run.name} on {named}, {rounds} rounds, steps/s (min / median / max)")
    for label, figures in rows.items():
        print(f"{label:>10}  {figures.shown(4)}")
    return {
        "name": config.run.name, "device": named, "real": real, "bare": bare, "single": single,
    }  # fmt: skip


def _real(config: TrainConfig, out: Path, steps: int) -> float:
    train(config, out, resume=False, quiet=True)
    record = read_log(out)[0][2 * steps]
    return float(record["images_per_second"]) / config.data.batch


def _bare(config: TrainConfig, device: torch.device, steps: int) -> float:
    networks = build_networks(config, device)
    optimisers = build_optimisers(config, networks, device)
    step = Step(config, networks, optimisers, Processes(rank=0, count=1, device=device))

    def bare(batch: Batch) -> Terms:
        optimisers.generator.zero_grad(set_to_none=True)
        with step.autocast():
            images, hr = step.images(batch)
            terms = step.generator_losses(images, hr)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimisers.generator.step()
        if optimisers.discriminator is not None:
            optimisers.discriminator.zero_grad(set_to_none=True)
            with step.autocast():
                loss = step.discriminator_loss(images, hr)
            loss.backward()  # type: ignore[no-untyped-call]
            optimisers.discriminator.step()
        return terms

    take = GraphedStep(bare) if config.device.graph and device.type == "cuda" else bare
    side = config.data.patch
    batch = Batch(
        lr=torch.rand(config.data.batch, 3, side, side, device=device),
        hr=torch.rand(config.data.batch, 3, SCALE * side, SCALE * side, device=device),
    )
    for _ in range(steps):
        take(batch)
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        take(batch)
    wait(device)
    return steps / (time.perf_counter() - start)


def _brief(config: TrainConfig, folder: Path, steps: int) -> TrainConfig:
    """A copy with this number of steps and as little setup and validation as possible."""
    data = config.data
    if not data.hr_dir:
        pictures = folder / "noise"
        pictures.mkdir()
        random = np.random.default_rng(0)
        side = SCALE * (data.patch + 16)
        for index in range(8):
            pixels = random.integers(256, size=(side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / f"{index}.png")
        data = replace(data, hr_dir=str(pictures), val_dir="", hold_out=1)
    return replace(
        config,
        data=data,
        run=replace(
            config.run, steps=2 * steps, minutes=0.0, log_every=steps, save_every=10 * steps
        ),
        validation=replace(
            config.validation, every=10 * steps, pictures=1, crop=128, samples=0, best="last"
        ),
    )
