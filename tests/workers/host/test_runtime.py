"""The sockets of a host are in a folder that does not stay."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.host.parent_death import dying_with_parent
from workers.host.runtime import runtime_folder

_PROGRAM = """
from workers.host.runtime import runtime_folder
with runtime_folder() as folder:
    print(folder, flush=True)
    input()
"""


@contextmanager
def host(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a runtime folder, and the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def test_the_next_start_removes_the_folder_of_a_killed_process_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "gdsr-of-others").mkdir()
    with host(tmp_path) as (alive, kept), host(tmp_path) as (killed, stale):
        killed.kill()
        killed.wait()
        assert stale.is_dir()

        with runtime_folder() as own:
            assert set(tmp_path.iterdir()) == {own, kept, tmp_path / "gdsr-of-others"}
        alive.communicate("\n")

    assert list(tmp_path.iterdir()) == [tmp_path / "gdsr-of-others"]
