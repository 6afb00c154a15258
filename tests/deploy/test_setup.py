"""`deploy/setup` chooses an interpreter, and the package index for torch; other scripts run too.

It runs in a copy of its files with stand-ins for interpreters, which record the calls of pip.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "constraints.txt", "service/client/pyproject.toml", "deploy/setup")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
#: `-c` with an address looks for an index, `-c` without one for a version and modules.
INTERPRETER = """#!/bin/sh
case "$1 $2" in
    "-c "*) [ -n "$3" ] && exit {reached}; exit {suits} ;;
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip") echo "$0 $*" >> pip.log ;;
    *) echo Python 3.12.1 ;;
esac
"""
needs_no_gpu = pytest.mark.skipif(
    any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))), reason="there is a GPU"
)


class Clone:
    """A folder with the files of the setup, and a PATH on which every Python is a stand-in."""

    def __init__(self, folder: Path, *, reached: bool = False) -> None:
        self.folder, self.path = folder / "a clone", folder / "bin"
        for name in FILES:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        self.path.mkdir()
        for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
            self.interpreter(name, suits=name == "python3.12", reached=reached)

    def interpreter(self, name: str, *, suits: bool, reached: bool) -> None:
        text = INTERPRETER.format(suits=int(not suits), reached=int(not reached))
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def setup(self, **settings: str) -> str:
        """Run it, and return its messages."""
        environment = {"PATH": f"{self.path}:{os.environ['PATH']}", **settings}
        run = subprocess.run(
            [self.folder / "deploy/setup", "local"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return run.stdout + run.stderr

    def pip(self) -> list[str]:
        log = self.folder / "pip.log"
        return log.read_text().splitlines() if log.exists() else []


def test_an_interpreter_that_is_too_old_is_skipped(tmp_path: Path) -> None:
    clone = Clone(tmp_path)

    clone.setup(GDSR_TORCH_INDEX="https://a.example/whl")

    assert (clone.folder / ".venv/bin/python").read_text() == (
        clone.path / "python3.12"
    ).read_text()


def test_without_an_interpreter_it_says_what_to_install(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    clone.interpreter("python3.12", suits=False, reached=False)

    assert "GDSR needs Python 3.11 or newer" in clone.setup()
    assert clone.pip() == []


def test_it_does_nothing_when_nothing_has_changed(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    clone.setup(GDSR_TORCH_INDEX="https://a.example/whl")
    calls = clone.pip()

    assert clone.setup(GDSR_TORCH_INDEX="https://a.example/whl") == ""
    assert clone.pip() == calls
    assert clone.setup(GDSR_TORCH_INDEX="https://b.example/whl") != ""


@pytest.mark.parametrize(
    ("named", "reached", "index"),
    [
        ("https://a.example/whl", True, "https://a.example/whl"),
        pytest.param("", True, CPU_INDEX, marks=needs_no_gpu),
        ("", False, None),
    ],
)
def test_the_index_of_torch_is_the_named_one_else_that_of_cpu_builds_if_it_answers(
    tmp_path: Path,
    named: str,
    reached: bool,  # noqa: FBT001
    index: str | None,
) -> None:
    clone = Clone(tmp_path, reached=reached)

    clone.setup(GDSR_TORCH_INDEX=named)

    torch, others = clone.pip()
    assert "torch==" in torch
    assert torch.partition("--index-url ")[2].split()[:1] == ([index] if index else [])
    assert "--index-url" not in others


def test_secrets_are_found_without_git_too(tmp_path: Path) -> None:
    for name in ("Makefile", ".secrets.baseline"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "notes.txt").write_text('password = "9fQ2xv7Lw1"\n')  # pragma: allowlist secret
    command = ["make", "check-leaks", f"BIN={Path(sys.executable).parent}"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert found.returncode != 0
    assert "notes.txt" in found.stdout


def test_a_training_finds_its_photographs_from_the_folder_of_its_caller(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor one; do case $one in data.hr_dir=*)\n'
                      'ls "${one#*=}" >> "$TOLD";; esac; done\n')  # fmt: skip
    python.chmod(0o755)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    told = tmp_path / "told"
    subprocess.run(
        [ROOT / "deploy/train/run", "photos", "--model", "smoke"],
        env={**os.environ, "PYTHON": str(python), "TOLD": str(told)},
        cwd=tmp_path, capture_output=True, check=True,
    )  # fmt: skip

    assert told.read_text() == "cat.jpg\ncat.jpg\n"
