"""The documents match the code: settings, commands and packages.

Run as a program, it prints the tables of docs/settings.md.
"""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from service.settings import ServiceSettings
from workers.contract.settings import SharedSettings, WorkerSettings

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    script.name for script in entry_points(group="console_scripts") if script.name[:5] == "gdsr-"
)


def row(settings: type[BaseSettings], name: str) -> str:
    field = settings.model_fields[name]
    default = field.default
    if hasattr(default, "total_seconds"):
        default = f"{default.total_seconds():g} s"
    shown = "" if default in (None, ()) else f"`{default}`"
    description = " ".join((field.description or "").split())
    return f"| `GDSR_{name.upper()}` | {shown} | {description} |"


def settings_table() -> str:
    lines = []
    for title, settings in (
        ("service and workers", SharedSettings),
        ("`gdsr-service`", ServiceSettings),
        ("`gdsr-worker`", WorkerSettings),
    ):
        own = [
            name
            for name in settings.model_fields
            if settings is SharedSettings or name not in SharedSettings.model_fields
        ]
        lines += [f"| {title} | default | |", "|---|---|---|", *(row(settings, n) for n in own), ""]
    return "\n".join(lines).strip()


def test_the_settings_are_documented_as_they_are() -> None:
    assert settings_table() in (ROOT / "docs/settings.md").read_text()


def test_every_command_is_documented() -> None:
    operations = (ROOT / "docs/operations.md").read_text()

    assert COMMANDS
    assert [command for command in COMMANDS if f"`{command}" not in operations] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_loading_what_the_command_needs_later(command: str) -> None:
    (script,) = (s for s in entry_points(group="console_scripts") if s.name == command)
    code = (
        f"import sys; sys.argv = ['{command}', '--help']\n"
        f"from {script.module} import {script.attr} as main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'fastapi', 'rq', 'PIL', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("usage: " + command)


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for package in ("service", "model", "workers", "deploy")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not {"__pycache__", "client"} & set(path.parts)
    }

    assert sorted(ours - packed) == []


def test_every_import_of_a_library_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += [name for name in extra if not name.startswith("gdsr")]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    names = {w.split(">")[0].split("=")[0].split("[")[0].lower().replace("_", "-") for w in wanted}

    assert sorted(names - pinned) == []


def test_every_claim_of_security_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())

    assert len(named) > 5
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


if __name__ == "__main__":
    sys.stdout.write(settings_table() + "\n")
