"""A checkpoint of a real GDSR network that is small enough to start and run quickly."""

from pathlib import Path

import torch

from model.checkpoint import Card, save_checkpoint
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
