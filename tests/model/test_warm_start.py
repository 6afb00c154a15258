"""A network can start from the blocks of an ESRGAN-class generator."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from model.checkpoint import CheckpointInvalid
from model.esrgan import ESRGAN
from model.gdsr import GDSR, GDSRConfig
from model.warm_start import warm_start

SIZE = GDSRConfig(features=6, growth=2, shared=1, guide=2, lf=1, hf_extract=1, hf=3, mask=1)


def pictures(count: int, *, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(3, 16, 16, generator=random) for _ in range(count)]


def distance(network: GDSR, teacher: ESRGAN) -> float:
    with torch.inference_mode():
        return max(
            float((network(lr[None], ("gan",)).gan - teacher(lr[None])).abs().mean())
            for lr in pictures(3, seed=1)
        )


def teacher_of(*, merges: float, blocks: int = 6) -> ESRGAN:
    """Return a teacher whose RRDBs add a share `merges` of what random ones add."""
    torch.manual_seed(0)
    teacher = ESRGAN(features=6, growth=2, blocks=blocks).requires_grad_(requires_grad=False)
    for name, parameter in teacher.trunk.named_parameters():
        if ".merge." in name:
            parameter.mul_(merges)
    return teacher.eval()


def test_with_blocks_that_add_nothing_the_start_is_the_teacher() -> None:
    teacher = teacher_of(merges=0.0)

    assert distance(warm_start(teacher, SIZE, pictures(12, seed=0)), teacher) < 2e-3


def test_the_start_is_far_closer_to_the_teacher_than_a_network_without_its_blocks() -> None:
    teacher = teacher_of(merges=1.0)

    started = warm_start(teacher, SIZE, pictures(12, seed=0))

    torch.manual_seed(1)
    assert distance(started, teacher) < 0.2 * distance(GDSR(SIZE), teacher)


def test_a_teacher_that_is_too_small_is_refused() -> None:
    with pytest.raises(CheckpointInvalid, match=r"has 5 RRDBs of 6 features; .* needs 6 of 6"):
        warm_start(teacher_of(merges=1.0, blocks=5), SIZE, pictures(1, seed=0))


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        ("none", "no folder"),
        (".", "no photograph to use in"),
        ("mixed", "mixed (1 broken, cut.png first, 1 smaller than 128x128)"),
    ],
)
def test_the_command_says_in_one_line_which_pictures_are_missing(
    tmp_path: Path, pictures: str, said: str
) -> None:
    names = {"first": "conv_first", "body": "conv_body", "up1.conv": "conv_up1"}
    names |= {"up2.conv": "conv_up2", "hr": "conv_hr", "to_rgb": "conv_last"}
    state = teacher_of(merges=1.0, blocks=1).state_dict()
    for block in range(3):
        old, new = f"trunk.0.blocks.{block}", f"body.0.rdb{block + 1}"
        names |= {f"{old}.grow.{conv}": f"{new}.conv{conv + 1}" for conv in range(4)}
        names[f"{old}.merge"] = f"{new}.conv5"
    parts = (name.rpartition(".") for name in state)
    torch.save(
        {f"{names[part]}.{kind}": state[f"{part}.{kind}"] for part, _, kind in parts},
        tmp_path / "net.pth",
    )
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    Image.new("RGB", (40, 40)).save(mixed / "small.png")
    Image.effect_noise((200, 200), 50).save(mixed / "cut.png")
    (mixed / "cut.png").write_bytes((mixed / "cut.png").read_bytes()[:9000])

    done = subprocess.run(
        [
            *(sys.executable, "-m", "model.import_checkpoint"),
            *(str(tmp_path / "net.pth"), str(tmp_path / "out.safetensors")),
            *("--esrgan", str(tmp_path / pictures)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.safetensors").exists()
