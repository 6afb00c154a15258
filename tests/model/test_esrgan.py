"""Weights of ESRGAN-class generators are read in every published form."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.checkpoint import CheckpointInvalid
from model.esrgan import ESRGAN, load_esrgan

FEATURES, GROWTH, BLOCKS = 8, 4, 2


@pytest.fixture(scope="module")
def generator() -> ESRGAN:
    torch.manual_seed(0)
    return ESRGAN(features=FEATURES, growth=GROWTH, blocks=BLOCKS).eval()


def basicsr(name: str) -> str:
    """Return the name of one of our tensors in Real-ESRGAN's files."""
    plain = {"first": "conv_first", "body": "conv_body", "up1": "conv_up1", "up2": "conv_up2"}
    plain |= {"hr": "conv_hr", "to_rgb": "conv_last"}
    part, *rest = name.split(".")
    if part != "trunk":
        return f"{plain[part]}.{rest[-1]}"
    rrdb, _, rdb, conv, *last = rest
    number = 5 if conv == "merge" else int(last[0]) + 1
    return f"body.{rrdb}.rdb{int(rdb) + 1}.conv{number}.{rest[-1]}"


def esrgan(name: str) -> str:
    """Return the name of one of our tensors in ESRGAN's original files."""
    theirs = basicsr(name)
    if theirs.startswith("body."):
        _, rrdb, rdb, conv, kind = theirs.split(".")
        return f"model.1.sub.{rrdb}.{rdb.upper()}.{conv}.0.{kind}"
    part, kind = theirs.split(".")
    numbers = {"conv_first": "0", "conv_body": f"1.sub.{BLOCKS}", "conv_up1": "3"}
    numbers |= {"conv_up2": "6", "conv_hr": "8", "conv_last": "10"}
    return f"model.{numbers[part]}.{kind}"


def convolutions(generator: ESRGAN) -> list[tuple[Tensor, Tensor]]:
    """Return weights and biases in the order of execution."""
    state = generator.state_dict()
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    return [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]


def write_ncnn(folder: Path, generator: ESRGAN, *, float16: bool) -> Path:
    lines = ["7767517", "2 2", "Input data 0 1 data"]
    data = b""
    for number, (weight, bias) in enumerate(convolutions(generator)):
        count = weight.numel()
        lines.append(f"Convolution Conv_{number} 1 1 a b 0={len(bias)} 1=3 4=1 5=1 6={count}")
        values = weight.numpy().astype(np.float16 if float16 else np.float32).tobytes()
        data += struct.pack("<I", 0x01306B47 if float16 else 0)
        data += values + bytes(-len(values) % 4) + bias.numpy().tobytes()
    (folder / "net.param").write_text("\n".join(lines) + "\n")
    (folder / "net.bin").write_bytes(data)
    return folder / "net.bin"


def assert_same(found: ESRGAN, generator: ESRGAN, *, within: float = 0.0) -> None:
    lr = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = found(lr), generator(lr)
    assert ours.shape == (1, 3, 36, 28)
    assert float((ours - theirs).abs().max()) <= within


@pytest.mark.parametrize("named", [basicsr, esrgan])
@pytest.mark.parametrize("wrap", [None, "params_ema", "params"])
def test_a_state_dict_is_read_under_both_styles_of_names(
    generator: ESRGAN, tmp_path: Path, named: Callable[[str], str], wrap: str | None
) -> None:
    state = {named(name): tensor for name, tensor in generator.state_dict().items()}
    torch.save({wrap: state} if wrap else state, tmp_path / "net.pth")

    assert_same(load_esrgan(tmp_path / "net.pth"), generator)


def test_safetensors_are_read(generator: ESRGAN, tmp_path: Path) -> None:
    state = {basicsr(name): tensor for name, tensor in generator.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")

    assert_same(load_esrgan(tmp_path / "net.safetensors"), generator)


@pytest.mark.parametrize("float16", [False, True])
def test_an_ncnn_pair_is_read(generator: ESRGAN, tmp_path: Path, *, float16: bool) -> None:
    path = write_ncnn(tmp_path, generator, float16=float16)

    assert_same(load_esrgan(path), generator, within=1e-3 if float16 else 0.0)
    assert_same(load_esrgan(path.with_suffix(".param")), generator, within=1e-3)


def test_a_pair_that_is_cut_off_is_refused(generator: ESRGAN, tmp_path: Path) -> None:
    path = write_ncnn(tmp_path, generator, float16=True)
    whole = path.read_bytes()

    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointInvalid, match=r"net\.bin ends within the weights of"):
            load_esrgan(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(CheckpointInvalid, match=r"net\.bin has .* bytes; net\.param calls for"):
        load_esrgan(path)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("7767517", "# a readme", "net.param is not an ncnn .param file"),
        ("Input data 0 1 data", "PReLU p 1 1 a b 0=64", "net.param has a layer PReLU"),
        ("Input data 0 1 data", "Convolution c 1 1 a b 0=x", "is damaged"),
        (
            "Input data 0 1 data",
            "Convolution c 1 1 a b 0=8 6=216",
            f"has {7 + 15 * BLOCKS} convolutions",
        ),
        ("6=216", "6=217", "has a convolution that is not 3x3"),
        ("6=216", "6=0", "has a convolution that is not 3x3"),
        ("6=216", "6=-216", "has a convolution that is not 3x3"),
    ],
)
def test_another_architecture_is_named_in_one_line(
    generator: ESRGAN, tmp_path: Path, was: str, becomes: str, said: str
) -> None:
    path = write_ncnn(tmp_path, generator, float16=True)
    param = path.with_suffix(".param")
    param.write_text(param.read_text().replace(was, becomes, 1))

    with pytest.raises(CheckpointInvalid) as caught:
        load_esrgan(path)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_dict_of_another_network_is_refused(generator: ESRGAN, tmp_path: Path) -> None:
    state = {basicsr(name): tensor for name, tensor in generator.state_dict().items()}
    path = tmp_path / "net.pth"
    wrong = {
        "tensor upsampler.0.weight is not part of one": {"upsampler.0.weight": torch.zeros(1)},
        "first.weight has the shape": {"conv_first.weight": torch.zeros(FEATURES, 12, 3, 3)},
    }
    for said, change in wrong.items():
        torch.save(state | change, path)
        with pytest.raises(CheckpointInvalid, match=said):
            load_esrgan(path)
    torch.save({name: value for name, value in state.items() if "conv_hr" not in name}, path)
    with pytest.raises(CheckpointInvalid, match=r"2 tensors \(hr\.bias, \.\.\.\) are missing"):
        load_esrgan(path)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"params": print}, tmp_path / "net.pth")

    with pytest.raises(CheckpointInvalid, match="not a pickle of weights alone"):
        load_esrgan(tmp_path / "net.pth")
