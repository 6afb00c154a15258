"""Parser for the repository's Markdown files: sections, fenced blocks, links and anchors."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block with its language."""

    language: str
    text: str


def markdown_files() -> list[str]:
    """Return all Markdown files of the project, relative to the repository; needs no git."""
    folders = ("deploy", "docs", "model", "service")
    found = [*ROOT.glob("*.md"), *(file for one in folders for file in (ROOT / one).rglob("*.md"))]
    return sorted(str(file.relative_to(ROOT)) for file in found)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def section(name: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    _, found, rest = read(name).partition(f"\n## {heading}\n")
    assert found, f"{name} has no section {heading}"
    return re.split(r"^#+ ", prose_with_blocks_hidden(rest), maxsplit=1, flags=re.MULTILINE)[0]


def prose_with_blocks_hidden(text: str) -> str:
    """Indent lines of fenced blocks that look like headings, so that they cannot end a section."""
    return _FENCE.sub(lambda block: block[0].replace("\n#", "\n #"), text)


def blocks(text: str) -> list[Block]:
    return [Block(language, body) for language, body in _FENCE.findall(text)]


def example(name: str, heading: str, language: str, *, number: int = 0) -> str:
    """Return one fenced block of a section."""
    found = [block.text for block in blocks(section(name, heading)) if block.language == language]
    return found[number]


def prose(text: str) -> str:
    """Return the text without fenced blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> Iterator[str]:
    """Yield the targets of links and pictures."""
    yield from _LINK.findall(_CODE_SPAN.sub("", prose(text)))


def anchors(text: str) -> set[str]:
    """Return the anchors of all headings, as GitHub generates them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(prose(text)):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        slug = words.strip().replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
