import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from reference_gdsr import plain_gdsr, random_state

from model.checkpoint import CheckpointInvalid, load_checkpoint
from model.gdsr import GDSRConfig
from model.import_checkpoint import main
from model.reference import read_reference, translate

LENGTHS = (2, 3, 1, 1, 2, 1)
CONFIG = GDSRConfig(features=8, growth=4, shared=2, guide=3, lf=1, hf_extract=1, hf=2, mask=1)


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("this must not run",)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gdsr-import", *map(str, arguments)])
    return main()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("index_single_blocks", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_reference_checkpoint_becomes_one_of_ours(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    index_single_blocks: bool,  # noqa: FBT001 (pytest passes it by name)
    zipped: bool,  # noqa: FBT001
) -> None:
    option = "--licence" if zipped else "--license"
    plain = random_state(8, 4, LENGTHS)
    state = random_state(8, 4, LENGTHS, index_single_blocks=index_single_blocks)
    torch.save(
        {prefix + name: tensor for name, tensor in state.items()},
        tmp_path / "in.pth",
        _use_new_zipfile_serialization=zipped,
    )
    target = tmp_path / "out.safetensors"

    status = run(monkeypatch, tmp_path / "in.pth", target, "--name", "mine", option, "MIT")

    assert status == 0
    checkpoint = load_checkpoint(target)
    assert checkpoint.config == CONFIG
    assert (checkpoint.card.name, checkpoint.card.licence) == ("mine", "MIT")
    lr = torch.rand(1, 3, 5, 4)
    with torch.inference_mode():
        expected, found = plain_gdsr(plain, LENGTHS, lr), checkpoint.generator(lr)
    for output, image in expected.items():
        torch.testing.assert_close(getattr(found, output), image, atol=1e-5, rtol=0)


def test_half_precision_stays_half_precision_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: tensor.half() for name, tensor in random_state(8, 4, LENGTHS).items()}
    safetensors.torch.save_file(state, tmp_path / "in.safetensors")

    assert run(monkeypatch, tmp_path / "in.safetensors", tmp_path / "out.safetensors") == 0

    stored = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert torch.equal(stored["first.weight"], state["body_ex.0.weight"])
    assert load_checkpoint(tmp_path / "out.safetensors").card.name == "out"


def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"body_ex.0.weight": RunsCode()}, tmp_path / "in.pth")

    assert run(monkeypatch, tmp_path / "in.pth", tmp_path / "out.safetensors") == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"gdsr-import: {tmp_path / 'in.pth'}: this is not a pickle of")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concat.0.bias": None}, "tensor hf_merge.bias is missing"),
        ({"body_ex.0.bias": None}, "tensor first.bias is missing, which gives the size"),
        ({"fc.weight": torch.zeros(1)}, "tensor fc.weight is not part of the reference network"),
        ({"concat.0.mean": torch.zeros(8)}, "tensor concat.0.mean is not part of the reference"),
        ({"body_x.sub.RDB1.conv1.0.bias": torch.zeros(4)}, "is not part of the reference"),
        ({"concat.0.bias": torch.zeros(9)}, r"hf_merge.bias has the shape \[9\]"),
        ({"module.concat.0.bias": torch.zeros(8)}, "some tensors occur twice"),
        ({"body_l1.sub.1.RDB1.conv1.0.bias": None}, "blocks.1.blocks.0.grow.0.bias is missing"),
    ],
)
def test_unusable_weights_are_reported_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, torch.Tensor | None],
    message: str,
) -> None:
    state = {**random_state(8, 4, LENGTHS), **change}
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "in.pth")

    assert run(monkeypatch, tmp_path / "in.pth", tmp_path / "out.safetensors") == 1

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_no_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.pth").write_bytes(content)

    with pytest.raises(CheckpointInvalid, match="this is not a pickle of weights alone"):
        read_reference(tmp_path / "in.pth")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {1: torch.zeros(1)}])
def test_a_pickle_of_something_else_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "in.pth")

    with pytest.raises(CheckpointInvalid, match="something else than named tensors"):
        read_reference(tmp_path / "in.pth")


def test_an_empty_state_dict_is_named() -> None:
    with pytest.raises(CheckpointInvalid, match=r"first\.bias is missing"):
        translate({})


def test_a_missing_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "none.pth", tmp_path / "out.safetensors") == 1
    assert "none.pth" in capsys.readouterr().err


def test_an_unwritable_result_is_reported_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = ("--esrgan", tmp_path)

    assert run(monkeypatch, tmp_path / "none.pth", tmp_path / "no" / "out", *photographs) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path / "none.pth", tmp_path, *photographs) == 1
    assert f"{tmp_path} cannot be written" in capsys.readouterr().err


def test_usage_errors_end_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "only-one.pth")

    assert caught.value.code == 2


def test_help_comes_without_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "model.import_checkpoint", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "usage: gdsr-import" in done.stdout
    assert "torch" not in done.stderr
