"""A checkpoint of a real GDSR network that is small enough to start and run quickly."""

import math
from pathlib import Path

import torch

from model.checkpoint import Card, load_checkpoint, save_checkpoint
from model.gdsr import GDSR, GDSRConfig

TINY = GDSRConfig(features=8, growth=4, shared=1, guide=1, lf=1, hf_extract=1, hf=1, mask=1)


def tiny_checkpoint(path: Path, *, seed: int = 0, consistency: bool = False) -> Path:
    """Write a checkpoint with random weights whose outputs stay near [0, 1]."""
    torch.manual_seed(seed)
    generator = GDSR(TINY)
    card = Card(
        name=path.stem,
        training="none",
        data="none",
        scores={},
        licence="Apache-2.0",
        consistency=consistency,
    )
    save_checkpoint(path, generator, card)
    return path


def half(path: Path) -> None:
    """Cut off the end of a checkpoint."""
    path.write_bytes(path.read_bytes()[:-100])


def not_finite(path: Path) -> None:
    """Make the output `gan` of a checkpoint NaN."""
    checkpoint = load_checkpoint(path)
    with torch.no_grad():
        checkpoint.generator.hf_to_rgb.bias.fill_(math.nan)
    save_checkpoint(path, checkpoint.generator, checkpoint.card)
