"""The client's name for its picture: made safe, kept in the job's record, given back, never logged.

A name may hold anything. What comes out of `safe_name` is one path component that every common
file system takes and that shows as what it is: no folders, no control or direction marks.
"""

import re
import unicodedata
from urllib.parse import quote

MAX_LENGTH = 100
_FORBIDDEN = re.compile(r'[<>:"|?*]')
#: Control, format (direction marks are such), surrogate, private use, line and paragraph ends.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def safe_name(name: str) -> str | None:
    """The last component of a name without what could do harm; None if nothing is left."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    shown = "".join(c for c in last if unicodedata.category(c) not in _INVISIBLE)
    kept = _FORBIDDEN.sub("_", shown).strip().lstrip(".").rstrip(". ")
    if len(kept) > MAX_LENGTH:
        stem, dot, extension = kept.rpartition(".")
        ending = dot + extension if stem and len(extension) <= 10 else ""
        kept = kept[: MAX_LENGTH - len(ending)].rstrip(". ") + ending
    if _DEVICES.match(kept):
        kept = f"_{kept}"
    return kept or None


def content_disposition(name: str, *, extension: str) -> str:
    """`inline` with the name under another extension, in plain letters and as it is (RFC 6266)."""
    stem = name.rpartition(".")[0] or name
    full = f"{stem}.{extension}"
    plain = unicodedata.normalize("NFKD", full).encode("ascii", "ignore").decode()
    plain = re.sub(r'["\\%]', "_", plain).strip() or f"result.{extension}"
    if plain.startswith("."):
        plain = f"result{plain}"
    header = f'inline; filename="{plain}"'
    return header if plain == full else f"{header}; filename*=UTF-8''{quote(full, safe='')}"
