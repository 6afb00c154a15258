"""Synthetic photographs, and presets so small that a step takes milliseconds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from random_weights import random_vgg

from model.esrgan import ESRGAN
from model.trainer.config import TrainConfig
from model.trainer.config_file import read_preset

TINY = (
    "generator.preset=",
    "generator.init=",
    "generator.size.features=4",
    "generator.size.growth=2",
    *(f"generator.size.{part}=1" for part in ("shared", "guide", "lf", "hf_extract", "hf", "mask")),
    "data.patch=16",
    "data.batch=2",
    "data.hold_out=1",
    "validation.pictures=1",
    "validation.crop=96",
)
Configure = Callable[..., TrainConfig]
Draw = Callable[..., Path]


def drawn(path: Path, *, width: int = 150, height: int = 120, seed: int = 0) -> Path:
    """Write a picture with shades, edges and texture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    rings = 60 * np.sin(np.hypot(x - 40, y - 30) / (3 + seed))
    colours = (
        random.integers(40, 200, 3) + rings[..., None] + random.normal(0, 6, (height, width, 3))
    )
    Image.fromarray(colours.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: two are slower for tensors this small, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def draw() -> Draw:
    """A function that writes a picture: `draw(path, width=, height=, seed=)`."""
    return drawn


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four pictures, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for seed in range(3):
        drawn(folder / f"{seed}.png", seed=seed, width=150 + 8 * seed)
    drawn(folder / "more" / "3.png", seed=3)
    return folder


@pytest.fixture(scope="session")
def vgg_files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Files of random weights by number of convolutions, with an eighth of VGG's channels."""
    folder = tmp_path_factory.mktemp("vgg")
    files = {}
    for convolutions in (13, 16):
        files[convolutions] = folder / f"{convolutions}.safetensors"
        state = random_vgg(convolutions=convolutions, divisor=8)
        safetensors.torch.save_file(state, files[convolutions])
    return files


@pytest.fixture(scope="session")
def dists_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random DISTS weights, with an eighth of VGG's channels."""
    folder = tmp_path_factory.mktemp("dists")
    state = random_vgg(convolutions=13, divisor=8)
    safetensors.torch.save_file(state, folder / "vgg16_features.safetensors")
    channels = 3 + sum((64, 128, 256, 512, 512)) // 8
    shares = {name: torch.rand(1, channels, 1, 1) for name in ("alpha", "beta")}
    safetensors.torch.save_file(shares, folder / "dists_alpha_beta.safetensors")
    return folder


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ESRGAN-class generator with random weights."""
    torch.manual_seed(0)
    state = ESRGAN(features=4, growth=2, blocks=1).state_dict()
    names = {"first": "conv_first", "body": "conv_body", "up1.conv": "conv_up1"}
    names |= {"up2.conv": "conv_up2", "hr": "conv_hr", "to_rgb": "conv_last"}
    for block in range(3):
        old, new = f"trunk.0.blocks.{block}", f"body.0.rdb{block + 1}"
        names |= {f"{old}.grow.{conv}": f"{new}.conv{conv + 1}" for conv in range(4)}
        names[f"{old}.merge"] = f"{new}.conv5"
    file = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    parts = (name.rpartition(".") for name in state)
    renamed = {f"{names[part]}.{kind}": state[f"{part}.{kind}"] for part, _, kind in parts}
    torch.save({"params_ema": renamed}, file)
    return file


@pytest.fixture
def configure(
    photographs: Path, vgg_files: dict[int, Path], dists_folder: Path, teacher_file: Path
) -> Configure:
    """A function that returns a shipped preset, made tiny, with the test's overrides."""

    def configured(preset: str, *overrides: str) -> TrainConfig:
        plain = read_preset(preset)
        if plain.losses.perceptual:
            file = vgg_files[16 if "conv5_4" in plain.losses.perceptual.taps else 13]
            overrides = (f"losses.perceptual.file={file}", *overrides)
        if plain.losses.dists:
            overrides = (f"losses.dists.folder={dists_folder}", *overrides)
        if plain.teacher:
            small = (f"teacher.file={teacher_file}", "teacher.pictures=16", "teacher.side=20")
            overrides = (*small, *overrides)
        if plain.losses.adversarial:
            overrides = ("losses.adversarial.features=4", *overrides)
        return read_preset(preset, (*TINY, f"data.hr_dir={photographs}", *overrides))

    return configured
