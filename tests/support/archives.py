"""Zips for tests: as people send them, and as nobody should."""

import io
import struct
import warnings
import zipfile
from collections.abc import Mapping


def zipped(
    files: Mapping[str, bytes] | list[tuple[str, bytes]], *, deflated: bool = False
) -> bytes:
    """A zip of these files, in this order, always the same; a list may name one twice."""
    pairs = list(files.items()) if isinstance(files, Mapping) else files
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name that is there twice
        for name, content in pairs:
            archive.writestr(zipfile.ZipInfo(name), content, method)  # without the time of day
    return file.getvalue()


class _Unflagged(zipfile.ZipInfo):
    """An entry that does not say how its name is written."""

    encoding: str

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - a name of `zipfile`
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def zipped_unflagged(files: Mapping[str, bytes], encoding: str) -> bytes:
    """A zip of these files as older archivers write it, with names in this encoding."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            entry = _Unflagged(name)
            entry.encoding = encoding
            archive.writestr(entry, content)
    return file.getvalue()


def linked(name: str, target: str) -> bytes:
    """A zip with a symbolic link in it, as Unix tools write one."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, target)
    return file.getvalue()


def with_directory_field(archive: bytes, place: int, layout: str, value: int) -> bytes:
    """The zip with one field of its first directory entry changed: flags are at 8, the method at
    10, the checksum at 16, the sizes at 20 and 24, the place of the data at 42.
    """
    changed = bytearray(archive)
    struct.pack_into(layout, changed, archive.index(b"PK\1\2") + place, value)
    return bytes(changed)


def overlapping(copies: int, *, size: int) -> bytes:
    """A bomb as in 'A better zip bomb' (Fifield 2019): many entries that share their data."""
    one = zipped({"0000.png": bytes(size)}, deflated=True)
    start, end = one.index(b"PK\1\2"), one.index(b"PK\5\6")
    entry = one[start:end]
    directory = b"".join(entry.replace(b"0000.png", b"%04d.png" % n) for n in range(copies))
    ending = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, copies, copies, len(directory), start, 0)
    return one[:start] + directory + ending
