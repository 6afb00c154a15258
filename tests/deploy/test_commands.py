"""Every command of the package reports its version and shows its defaults in its help."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "scripts"
]


def output(command: str, *arguments: str) -> str:
    module, _, function = COMMANDS[command].partition(":")
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import {function}; {function}()", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_needed(text: str, option: str) -> bool:
    """True if the usage shows the option without brackets, so that it needs no default."""
    name = option.split(maxsplit=1)[0]
    return f"[{name} " not in text


@pytest.mark.slow  # starts dozens of processes
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_tells_its_version_and_its_defaults(command: str) -> None:
    assert output(command, "--version") == f"gdsr {version('gdsr')}\n"

    texts = [output(command, "--help")]
    parts = re.search(r"positional arguments:\n  (?:COMMAND|KIND)\n((?:    .*\n)+)", texts[0])
    kinds = re.findall(r"^    (\w+)", parts[1], re.MULTILINE) if parts else []
    texts.extend(output(command, kind, "--help") for kind in kinds)
    for text in texts:
        _, _, options = text.partition("\noptions:\n")
        for option in re.findall(r"^  (-.*(?:\n {4,}.*)*)", options, re.MULTILINE):
            takes_value = re.match(r"(-\w \S+, )?--[\w-]+ [A-Z{\d]", option)
            assert not takes_value or "(default:" in option or is_needed(text, option), option
