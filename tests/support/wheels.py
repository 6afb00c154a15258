"""Installs a package of the repository alone, with only its declared dependencies."""

import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def install_alone(project: Path, folder: Path) -> Path:
    """Build a wheel and install it into a new folder without a network. Dependencies are links into
    this environment.
    """
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=project,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--no-compile", "--target", str(target), str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    (info,) = target.glob("*.dist-info")
    _link_dependencies(Distribution.at(info), target)
    return target


def run_bare(target: Path, code: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python code that can import only from this folder and the standard library."""
    start = f"import sys; sys.path.append({str(target)!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def _link_dependencies(package: Distribution, target: Path) -> None:
    for line in package.requires or ():
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        found = distribution(needed.name)
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            link = target / name
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(name))))
        _link_dependencies(found, target)
