"""File names of downloads: the client's own name for its picture, with another extension."""

import re
import unicodedata
from urllib.parse import quote


def result_name(template: str, name: str, *, scale: float) -> str:
    """The file name of a result, by the template: `kitten-4x.jpg` for `kitten.jpg`."""
    stem = name.rpartition(".")[0] or name
    return template.replace("{scale}", f"{round(scale, 2):g}").replace("{name}", stem)


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
