"""The commands of the README work in a fresh clone. Packages come from this environment, since
setting up downloads hundreds of megabytes.
"""

import os
import shutil
import signal
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT, example
from networks import tiny_checkpoint
from PIL import Image
from processes import alive, descendants, free_port, wait_for

from workers.host.parent_death import dying_with_parent

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("make"), reason="there is no make"),
    pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is not a git clone"),
]
URL = "http://127.0.0.1:8000"
#: Writes the stamp that `deploy/setup` compares.
STATE = """
here=$(pwd -P)
{line}
echo "$state local" > .venv/.gdsr-setup
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone that is set up, in a folder with a space: its Python finds our packages and the
    clone's own modules.
    """
    clone = tmp_path / "a clone"
    git = ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(clone)]
    subprocess.run(git, check=True)
    environment = clone / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    paths = [str(clone), str(clone / "service" / "client"), *site.getsitepackages()]
    (packages / "gdsr.pth").write_text("\n".join(paths))
    lines = (clone / "deploy" / "setup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("state="))
    subprocess.run(["sh", "-euc", STATE.format(line=line)], cwd=clone, check=True)
    return clone


@pytest.fixture
def port(clone: Path, tmp_path: Path) -> Iterator[int]:
    """Run `make run` in the clone with a quick network, where the environment names a proxy; yield
    its port once it serves.
    """
    line = example("README.md", "Start", "sh").splitlines()[0].partition("#")[0]
    assert line.split() == ["make", "run"]
    port, checkpoint = free_port(), tiny_checkpoint(tmp_path / "tiny.safetensors")
    own = {name: value for name, value in os.environ.items() if not name.startswith("GDSR_")}
    own |= {"PORT": str(port), "PYTHONPATH": "", "GDSR_CHECKPOINTS": str(checkpoint)}
    own |= {"http_proxy": "http://127.0.0.1:1", "no_proxy": "a.example"}
    with subprocess.Popen(
        ["bash", "-c", line],
        cwd=clone,
        env=own,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
    ) as run:
        below: list[int] = []
        try:
            assert run.stdout is not None
            said = [run.stdout.readline() for _ in range(4)]
            below = descendants(run.pid)
            assert f"http://127.0.0.1:{port}" in said[-1], said
            yield port
        finally:
            os.killpg(run.pid, signal.SIGINT)  # Ctrl-C
            wait_for(lambda: not any(map(alive, below)), seconds=300, what="the end of make run")


def run_in(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_lines_of_the_readme_work_in_a_fresh_clone(
    clone: Path, port: int, tmp_path: Path
) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    shutil.copy(clone / "deploy" / "sample" / "kitten.jpg", folder / "photo.jpg")
    here = f"http://127.0.0.1:{port}"
    large = folder / "large.png"

    made = sorted(path.name for path in (clone / "out").iterdir())
    run_in(folder, "bash", "-c", example("README.md", "Over HTTP", "sh").replace(URL, here))
    by_curl = large.read_bytes()
    large.unlink()
    code = example("README.md", "From Python", "python").replace(URL, here)
    printed = run_in(folder, str(clone / ".venv" / "bin" / "python"), "-c", code)

    assert made == [f"kitten-x4-{name}.png" for name in ("balanced", "crisp", "faithful")]
    assert large.read_bytes() == by_curl == (clone / "out" / "kitten-x4-balanced.png").read_bytes()
    assert printed.splitlines()[-1].startswith("succeeded, png of 1024 x 768")
    with Image.open(large) as opened:
        assert opened.size == (1024, 768)
