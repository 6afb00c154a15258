"""File names from clients: sanitised, stored in records, returned, never logged.

`safe_name` returns one path component that is valid on every common file system and is displayed as
it is: no folders, no control characters or direction marks.
"""

import re
import unicodedata

MAX_LENGTH = 100
#: Most file systems allow 255 bytes; a result's name is longer than its picture's.
_MAX_BYTES = 200
#: Maximum depth of a path; the innermost folders are kept.
_MAX_FOLDERS = 8
_FORBIDDEN = re.compile(r'[<>:"|?*]')
#: Unicode categories to remove: control, format (direction marks), surrogate, private use, line and
#: paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def safe_name(name: str) -> str | None:
    """The last component of a name, sanitised; None if nothing is left."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    shown = "".join(c for c in last if unicodedata.category(c) not in _INVISIBLE)
    kept = _FORBIDDEN.sub("_", shown).strip().lstrip(".").rstrip(". ")
    if len(kept) > MAX_LENGTH or len(kept.encode()) > _MAX_BYTES:
        stem, dot, extension = kept.rpartition(".")
        ending = dot + extension if stem and len(extension) <= 10 else ""
        start = kept[: MAX_LENGTH - len(ending)].encode()[: _MAX_BYTES - len(ending.encode())]
        kept = start.decode(errors="ignore").rstrip(". ") + ending
    if _DEVICES.match(kept):
        kept = f"_{kept}"
    return kept or None


def safe_path(path: str) -> str | None:
    """A relative path of sanitised names, separated by `/`; None if no name is left.

    Parent folders and drives are removed: `C:\\..\\a\\b.jpg` becomes `C_/a/b.jpg`.
    """
    *folders, last = re.split(r"[/\\]", path)
    name = safe_name(last)
    if name is None:
        return None
    kept = [safe for folder in folders if (safe := safe_name(folder))]
    return "/".join((*kept[-_MAX_FOLDERS:], name))


class UniqueNames:
    """Makes paths unique on every file system, even if it ignores case or Unicode composition."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        #: The last number of each path: with all lower ones taken, no search starts anew.
        self._numbers: dict[str, int] = {}

    def add(self, path: str) -> str:
        """Return the path, numbered if it is used; without folders if one of them is a file."""
        if not self._files.isdisjoint(_folders(path)):
            path = path.replace("/", "_")
        folder, slash, name = path.rpartition("/")
        stem, dot, extension = name.rpartition(".")
        if not stem:
            stem, dot, extension = name, "", ""
        number, found = self._numbers.get(_plain(path), 1), path
        while (plain := _plain(found)) in self._files or plain in self._folders:
            number += 1
            found = f"{folder}{slash}{stem} ({number}){dot}{extension}"
        self._numbers[_plain(path)] = number
        self._files.add(plain)
        self._folders |= _folders(found)
        return found


def _folders(path: str) -> set[str]:
    """The parent folders: `a` and `a/b` for `a/B/c.png`."""
    parts = _plain(path).split("/")
    return {"/".join(parts[:depth]) for depth in range(1, len(parts))}


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
