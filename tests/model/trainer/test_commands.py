"""`gdsr-train` fits, resumes, exports and plots, and reports errors in one line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from processes import wait_for

from model.checkpoint import load_checkpoint, read_header, read_tensors
from model.trainer.__main__ import main
from model.trainer.config import TrainConfig
from model.trainer.loop import train
from model.trainer.run.run import BEST, STATE

Configure = Callable[..., TrainConfig]
Run = Callable[..., "Ran"]
TINY = (
    "generator.size.features=4",
    "generator.size.growth=2",
    "data.batch=2",
    "data.hold_out=1",
    "validation.pictures=1",
    "validation.crop=96",
)


class Ran(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def ran(*words: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["gdsr-train", *map(str, words)])
        try:
            status = main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Ran(status, *capsys.readouterr())

    return ran


def fit(photographs: Path, out: Path, *sets: str) -> Sequence[str | Path]:
    given = [word for each in (*TINY, *sets) for word in ("--set", each)]
    return ["fit", "smoke", "--set", f"data.hr_dir={photographs}", "--out", out, *given]


@pytest.mark.slow
def test_a_run_that_is_ended_by_a_signal_saves_and_can_be_resumed(
    photographs: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "run"
    words = fit(photographs, out, "run.steps=100000", "run.log_every=1")
    process = subprocess.Popen(
        [sys.executable, "-m", "model.trainer", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        log = out / "log.jsonl"
        wait_for(lambda: log.exists() and '"step": 3,' in log.read_text(), what="the third step")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 0
    finally:
        process.kill()
    stopped = torch.load(out / STATE, weights_only=True)["step"]

    resumed = run("resume", out, "--minutes", "0.0001")

    assert resumed.status == 0, resumed.err
    assert stopped >= 3
    assert "done: step" in resumed.out
    assert torch.load(out / STATE, weights_only=True)["step"] >= stopped
    load_checkpoint(out / BEST)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["fit", "smoke", "--set", "data.hr_dir={empty}"], 1, "no photograph to use in"),
        (["fit", "smoke", "--set", "data.hr_dir={empty}/no"], 1, "no folder"),
        (["fit", "smoke"], 2, "a folder of photographs is required: --set data.hr_dir=DIR"),
        (["fit", "smoke", "--set", "data.size=3"], 2, "data.size is unknown"),
        (["fit", "huge"], 2, "no preset huge; there are base_adversarial"),
        (["resume", "{empty}"], 1, "holds no run"),
        (["export", "{empty}", "{empty}/out"], 1, "best.safetensors"),
        (["export", "{empty}", "{empty}/no/out"], 1, "there is no folder"),
        (["plot", "{empty}"], 1, "log.jsonl"),
        (
            [
                "fit",
                "smoke",
                *("--set", "data.hr_dir=x", "--set", "generator.size.features=300000"),
            ],
            1,
            "out of memory: a smaller data.batch",
        ),
    ],
)
def test_an_error_is_one_line(
    run: Run, tmp_path: Path, words: Sequence[str], status: int, said: str
) -> None:
    (tmp_path / "empty").mkdir()

    failed = run(*(word.format(empty=tmp_path / "empty") for word in words))

    assert failed.status == status
    assert said in failed.err
    assert failed.err.count("\n") == 1
    assert failed.err.startswith("gdsr-train: ")


def test_a_run_with_relative_paths_resumes_from_another_folder(
    configure: Configure,
    photographs: Path,
    teacher_file: Path,
    dists_folder: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(configure("smoke", "run.steps=1"), tmp_path / "first", resume=False, quiet=True)
    monkeypatch.chdir(tmp_path)
    sets = {
        "generator.preset": "", "generator.init": "first/best.safetensors", "run.steps": 1,
        "teacher.pictures": 16, "teacher.side": 20, "data.patch": 16,
        "data.hr_dir": os.path.relpath(photographs), "teacher.file": os.path.relpath(teacher_file),
        "losses.dists.folder": os.path.relpath(dists_folder), "teacher.cache": "cache",
    }  # fmt: skip
    sizes = ("shared", "guide", "lf", "hf_extract", "hf", "mask")
    parts = [*TINY, *(f"generator.size.{part}=1" for part in sizes)]
    given = [*parts, *(f"{key}={value}" for key, value in sets.items())]
    words = [word for each in given for word in ("--set", each)]
    started = run("fit", "lite_real_gan", "--out", "second", *words)
    assert started.status == 0, started.err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    resumed = run("resume", "../second")

    assert resumed.status == 0, resumed.err
    assert not list((tmp_path / "elsewhere").iterdir())


def test_wrong_usage_has_its_own_exit_status(run: Run) -> None:
    assert run("fit").status == 2
    assert run("fit", "smoke", "--minutes", "0").status == 2
    assert "invalid minutes value: 'long'" in run("fit", "smoke", "--minutes", "long").err


def test_an_exported_checkpoint_has_the_scores_of_its_evaluation_and_no_others(
    configure: Configure, tmp_path: Path, run: Run
) -> None:
    train(configure("smoke", "run.steps=1"), tmp_path / "run", resume=False, quiet=True)
    target = tmp_path / "mine.safetensors"
    report = tmp_path / "report.json"

    first = run("export", tmp_path / "run", target, "--licence", "CC0-1.0")
    assert first.status == 0, first.err
    scores = {"Set5": {"psnr": {"psnr_y": 31.0}}}
    judged = {"name": "mine", "sha256": read_header(target).sha256, "scores": scores}
    plain = {"back_projection": False, "jpeg": None, "degrade": None, "pairs": []}
    report.write_text(json.dumps({"checkpoints": [judged], **plain, "jpeg": 75}))
    compressed = run("export", tmp_path / "run", target, "--scores", report)
    assert compressed.status == 1
    assert "was measured with --jpeg" in compressed.err
    report.write_text(json.dumps({"checkpoints": [judged], **plain}))
    again = run("export", tmp_path / "run", target, "--license", "CC0-1.0", "--scores", report)
    assert again.status == 0, again.err

    card = read_header(target).card
    assert asdict(card)["scores"] == scores
    assert (card.name, card.licence) == ("mine", "CC0-1.0")
    assert all(tensor.dtype == torch.float16 for tensor in read_tensors(target).values())

    refused = run("export", tmp_path / "run", target, "--scores", report)
    assert refused.status == 1
    assert "no scores of the checkpoint" in refused.err  # its card has changed
    assert asdict(read_header(target).card) == asdict(card)


def test_curves_are_drawn_from_the_log(configure: Configure, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("matplotlib")
    config = configure("smoke_adversarial", "run.steps=4", "run.log_every=1", "validation.every=2")
    train(config, tmp_path, resume=False, quiet=True)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"event": "st')  # left by a killed process

    drawn = run("plot", tmp_path)

    assert drawn.status == 0, drawn.err
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 600
    refused = run("plot", tmp_path, "--out", tmp_path / "curves.txt")
    assert refused.status == 1
    assert "Format 'txt' is not supported" in refused.err
