"""Roots: the only folders in which `gdsr-mcp` reads and writes files."""

from collections.abc import Sequence
from pathlib import Path

Roots = Sequence[Path]


def open_roots(folders: Sequence[str]) -> Roots:
    """The folders as resolved paths; raises ValueError or OSError if one is not a folder."""
    roots = [Path(folder).resolve() for folder in folders]
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder")
    return roots


def resolve(path: str, roots: Roots) -> Path:
    """Resolve links and `..` in a path; a relative path starts at the first root.

    Raises ValueError if the path is outside all roots, or invalid; so do the functions below.
    """
    try:
        found = (roots[0] / path).resolve()
    except (OSError, RuntimeError, ValueError) as wrong:  # a loop of links, a null byte
        raise ValueError(f"{path!r} is not a usable path: {wrong}") from None
    if not any(found.is_relative_to(root) for root in roots):
        allowed = ", ".join(map(str, roots))
        raise ValueError(f"{path} is outside the allowed folders ({allowed})")
    return found


def existing_file(path: str, roots: Roots) -> Path:
    """The path of a file to read, which has to exist."""
    found = resolve(path, roots)
    if not found.is_file():  # a folder, a pipe, a device
        raise ValueError(f"{path} is not a file" if found.exists() else f"there is no file {path}")
    return found


def new_file(path: str, roots: Roots, *, overwrite: bool) -> Path:
    """The path of a file to write; its folder is created if needed."""
    found = resolve(path, roots)
    if found.is_dir():
        raise ValueError(f"{path} is a folder")
    if found.exists() and not overwrite:
        raise ValueError(f"{path} exists already; choose another name, or set overwrite")
    found.parent.mkdir(parents=True, exist_ok=True)
    return found
