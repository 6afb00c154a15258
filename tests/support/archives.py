"""Zip files for tests, well-formed and malicious."""

import io
import struct
import warnings
import zipfile
from collections.abc import Mapping


def zipped(
    files: Mapping[str, bytes] | list[tuple[str, bytes]], *, deflated: bool = False
) -> bytes:
    """Return a zip of these files in this order, always the same; a list may repeat a name."""
    pairs = list(files.items()) if isinstance(files, Mapping) else files
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # a repeated name
        for name, content in pairs:
            archive.writestr(zipfile.ZipInfo(name), content, method)  # ZipInfo has no timestamp
    return file.getvalue()


class _Unflagged(zipfile.ZipInfo):
    """An entry without the flag that says that its name is in UTF-8."""

    encoding: str

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - a name of `zipfile`
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def zipped_unflagged(files: Mapping[str, bytes], encoding: str) -> bytes:
    """Return a zip as older archivers write it, with names in this encoding."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            entry = _Unflagged(name)
            entry.encoding = encoding
            archive.writestr(entry, content)
    return file.getvalue()


def linked(name: str, target: str) -> bytes:
    """Return a zip that holds a symbolic link, as Unix tools write it."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, target)
    return file.getvalue()


def with_directory_field(archive: bytes, place: int, layout: str, value: int) -> bytes:
    """Return the zip with one field of its first directory entry changed. Offsets: flags 8, method
    10, checksum 16, sizes 20 and 24, local header offset 42.
    """
    changed = bytearray(archive)
    struct.pack_into(layout, changed, archive.index(b"PK\1\2") + place, value)
    return bytes(changed)


def overlapping(copies: int, *, size: int) -> bytes:
    """Return a zip bomb as in 'A better zip bomb' (Fifield 2019): entries that share their data."""
    one = zipped({"0000.png": bytes(size)}, deflated=True)
    start, end = one.index(b"PK\1\2"), one.index(b"PK\5\6")
    entry = one[start:end]
    directory = b"".join(entry.replace(b"0000.png", b"%04d.png" % n) for n in range(copies))
    ending = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, copies, copies, len(directory), start, 0)
    return one[:start] + directory + ending
