"""Fitting the fusion makes `fused` the blend of `psnr` and `gan` by the mask."""

from pathlib import Path

import numpy as np
import pytest
import torch
from factories import photo
from networks import tiny_checkpoint
from PIL import Image

from model.checkpoint import load_checkpoint
from model.trainer.errors import TrainingError
from model.trainer.fusion import fit_fusion
from model.trainer.run.export import export


def error(path: Path, picture: torch.Tensor) -> float:
    """RMS distance of `fused` from the blend, relative to that of `psnr` from `gan`."""
    with torch.no_grad():
        out = load_checkpoint(path).generator(picture, ("psnr", "fused", "gan", "mask"))
    distance = out.fused - torch.lerp(out.psnr, out.gan, out.mask)
    return float(distance.square().mean().sqrt() / (out.gan - out.psnr).square().mean().sqrt())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        Image.fromarray(photo(300, 320)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def test_the_fusion_comes_close_to_the_blend_and_nothing_else_changes(
    folder: Path, tmp_path: Path
) -> None:
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    tiny_checkpoint(before)
    pixels = np.ascontiguousarray(photo(300, 320)[40:80, 50:90])
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    card = export(before, after, report=None, name=None, licence=None, photographs=folder)

    assert card.training.endswith("; fusion fitted by least squares")
    assert error(after, picture) < 0.5 * error(before, picture)
    old, new = (load_checkpoint(path).generator.half().state_dict() for path in (before, after))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"fused_to_rgb.weight", "fused_to_rgb.bias"}


def test_photographs_that_are_too_small_are_counted(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "tiny.safetensors")
    Image.fromarray(photo(100, 320)).save(tmp_path / "low.png")
    generator = load_checkpoint(tmp_path / "tiny.safetensors").generator

    with pytest.raises(TrainingError, match="1 smaller than 288x288"):
        fit_fusion(generator, tmp_path)
