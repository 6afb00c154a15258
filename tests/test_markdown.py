"""The documents are short, plain and correctly linked, and their commands exist."""

import re
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from documents import ROOT, anchors, blocks, links, markdown_files, prose, read

DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
#: Private words of this project for things that have a standard term.
ODD_WORDS = (
    "wishes", "residents", "memory ladder", "reblend", "re-blend", "exposition", "lifeline",
    "rehears", "for programs", "puts right", "are worth", "taken are", "any answer of 2xx",
)  # fmt: skip


def paragraphs(text: str) -> list[str]:
    """Return prose paragraphs, without tables and lists."""
    parts = re.split(r"\n\s*\n", prose(text))
    return [part for part in parts if not part.lstrip().startswith(("|", "-", "#", "1."))]


def test_the_readme_is_read_in_a_few_minutes() -> None:
    readme = read("README.md")

    assert len(readme.split()) <= 900
    assert [line for line in readme.splitlines() if len(line) > 120] == []
    assert [part for part in paragraphs(readme) if part.count("\n") >= 5] == []


def test_the_architecture_is_read_at_one_sitting() -> None:
    assert len(read("ARCHITECTURE.md").splitlines()) <= 150


@pytest.mark.parametrize("heading", ["A request", "A training batch"])
def test_a_flow_is_eight_steps_with_a_file_each(heading: str) -> None:
    flow = read("ARCHITECTURE.md").split(f"## {heading}\n")[1].split("\n## ")[0]
    steps = re.split(r"^\d\. ", flow, flags=re.MULTILINE)[1:]

    assert len(steps) == 8
    assert [len(list(links(step))) for step in steps] == [1] * 8


@pytest.mark.parametrize("name", markdown_files())
def test_links_and_anchors_lead_somewhere(name: str) -> None:
    broken = []
    for link in links(read(name)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("name", markdown_files())
def test_words_are_plain(name: str) -> None:
    text = prose(read(name))
    openings = re.findall(r"(?:^|[.!?:;] |\*\* |\| |- )((?:What|Who)\b.{0,40})", text, re.MULTILINE)
    odd = [word for word in ODD_WORDS if word in text.lower()]

    assert (openings, odd) == ([], [])


def test_decisions_are_numbered_without_a_gap_and_listed() -> None:
    index = read("docs/decisions/README.md")
    numbers = [int(path.name[:3]) for path in DECISIONS]

    assert numbers == list(range(1, len(numbers) + 1))
    for number, path in zip(numbers, DECISIONS, strict=True):
        title = path.read_text().splitlines()[0].removeprefix(f"# {number}. ")
        assert f"\n{number}. [{title}]({path.name})\n" in index


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_is_context_decision_and_cost_in_ten_lines(path: Path) -> None:
    title, *lines = [line for line in path.read_text().splitlines() if line]

    assert title.startswith(f"# {int(path.name[:3])}. ")
    heads = [line.split("** ")[0] for line in lines if line.startswith("**")]
    assert heads == ["**Context.", "**Decision.", "**Cost."]
    assert len(lines) <= 10


def test_every_note_of_the_laboratory_is_listed() -> None:
    notes = {path.name for path in (ROOT / "docs/lab").glob("*.md")} - {"README.md"}

    assert notes == {link for link in links(read("docs/lab/README.md")) if "/" not in link}


# Commands of the documents; tests/e2e/test_examples.py and tests/service/test_examples.py run those
# of curl and Python.

_COMMAND = re.compile(
    r"^(?:\w+=\S+ )*(?:\.venv/bin/)?"
    r"(gdsr-[a-z]+|make|pytest|docker compose|(?:deploy|tests)/\S+)\b(.*)"
)
COMMANDS = {script.name: script for script in entry_points(group="console_scripts")}


@cache
def help_of(command: str, sub: str) -> str:
    script = COMMANDS[command]
    code = (
        f"import sys; sys.argv = {[command, *sub.split(), '--help']!r}\n"
        f"from {script.module} import {script.attr} as main; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def commands(name: str) -> list[tuple[str, str]]:
    """Return each project or tool command in a document's shell blocks, with its arguments."""
    shells = [block.text for block in blocks(read(name)) if block.language == "sh"]
    lines = "".join(shells).replace("\\\n", " ").splitlines()
    return [found.groups() for line in lines if (found := _COMMAND.search(line.split("  #")[0]))]


@pytest.mark.parametrize("name", markdown_files())
def test_commands_in_shell_blocks_exist_with_their_options(name: str) -> None:
    for command, rest in commands(name):
        if command.startswith("gdsr-"):
            sub = rest.split()[0] if command in ("gdsr-train", "gdsr-bench") else ""
            unknown = set(re.findall(r"--[a-z-]+", rest)) - set(
                re.findall(r"--[a-z-]+", help_of(command, sub))
            )
            assert unknown == set(), f"{command} {sub}"
        elif command == "make":
            target = rest.split()[0]
            assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE), target
        elif command == "pytest":
            for marker in re.findall(r"-m (\w+)", rest):
                assert f'"{marker}: ' in read("pyproject.toml"), marker
            for path in re.findall(r"tests/[\w/.]+", rest):
                assert (ROOT / path).exists(), path
        elif command == "docker compose":
            missing = [
                file for file in re.findall(r"-f (\S+)", rest) if not (ROOT / file).is_file()
            ]
            assert missing == []
        else:
            assert (ROOT / command).is_file(), command


@pytest.mark.parametrize("name", markdown_files())
def test_paths_in_documents_exist(name: str) -> None:
    named = re.findall(r"`((?:service|model|workers|deploy|tests|docs)/[\w./-]+\.\w+)`", read(name))

    assert [path for path in named if not (ROOT / path).exists()] == []
