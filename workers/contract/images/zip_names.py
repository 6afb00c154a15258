"""Names in zips that do not say how they are written.

A flag says UTF-8; a name without it is in code page 437, by the specification. But archivers write
UTF-8 without the flag too, and those of Japanese Windows write Shift-JIS. Some add the name in
UTF-8 as an extra field (APPNOTE.TXT, section 4.6.9).
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress

_FLAG_UTF8 = 0x800
_UNICODE_PATH = 0x7075
#: Characters of western languages in code page 437, letters to a degree sign: no boxes or Greek.
_WESTERN = re.compile(rb"[\x00-\xa8\xab-\xaf\xe1\xf8]*")
_JAPANESE = re.compile("[\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uff66-\uff9f]")
#: In a western word a letter with an accent rarely follows another pair that looks like this.
_JAPANESE_PAIR = re.compile(_JAPANESE.pattern * 2)


def correct_names(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Set the names of all entries, decided for all of those without the flag together."""
    unsure = [entry for entry in entries if not entry.flag_bits & _FLAG_UTF8]
    # `zipfile` has taken them for code page 437, in which every byte is a character.
    written = [entry.orig_filename.encode("cp437") for entry in unsure]
    for entry, raw, name in zip(unsure, written, _decoded(written), strict=True):
        entry.filename = (_in_extra_field(entry.extra, raw) or name).partition("\0")[0]


def _in_extra_field(extra: bytes, name: bytes) -> str | None:
    """The name in UTF-8, if there is one that belongs to this name."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if kind == _UNICODE_PATH and body[:5] == struct.pack("<BI", 1, zlib.crc32(name)):
            with suppress(UnicodeDecodeError):
                return body[5:].decode()
        at += 4 + length
    return None


def _decoded(names: Sequence[bytes]) -> list[str]:
    try:
        return [name.decode() for name in names]
    except UnicodeDecodeError:
        pass
    try:
        japanese = [name.decode("cp932") for name in names]
        if any(map(_is_japanese, names, japanese)):
            return japanese
    except UnicodeDecodeError:
        pass
    return [name.decode("cp437") for name in names]


def _is_japanese(name: bytes, decoded: str) -> bool:
    evidence = _JAPANESE_PAIR if _WESTERN.fullmatch(name) else _JAPANESE
    return evidence.search(decoded) is not None
