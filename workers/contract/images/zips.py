"""Reads untrusted zip files within bounds.

The directory of a zip is small and complete, so it is checked first, by the service too, without
decompressing anything. Its claims are then enforced: an entry never yields more bytes than
declared, and a wrong checksum is an error.
"""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, BinaryIO, cast

from workers.contract.blobs.base import CHUNK
from workers.contract.errors import ArchiveInvalid, BatchEmpty, BatchTooLarge, EntryDamaged
from workers.contract.images.formats import unsupported

#: Files that desktop systems add to zips.
_SYSTEM_FOLDER, _SYSTEM_FILES = "__MACOSX", {"thumbs.db", "desktop.ini"}
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x01
#: Maximum size of a directory, and so of any read: two thousand names of five hundred bytes.
_MAX_BYTES = max(2**20, CHUNK)
#: All exceptions that `zipfile` is known to raise for damaged files.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError,
    NotImplementedError, RuntimeError, OSError,
)  # fmt: skip

_FLAG_UTF8 = 0x800
_UNICODE_PATH = 0x7075
#: Western characters of code page 437: no box drawing or Greek letters.
_WESTERN = re.compile(rb"[\x00-\xa8\xab-\xaf\xe1\xf8]*")
_JAPANESE = re.compile("[\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uff66-\uff9f]")
#: A western name rarely decodes to two Japanese characters in a row.
_JAPANESE_PAIR = re.compile(_JAPANESE.pattern * 2)


class _Bounded:
    """A file with a maximum read size."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._read = file.read

    def read(self, count: int = -1) -> bytes:
        piece = self._read(min(count, _MAX_BYTES + 1) if count >= 0 else _MAX_BYTES + 1)
        if len(piece) > _MAX_BYTES:
            raise zipfile.BadZipFile("its directory is too large")
        return piece


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """Open the zip in a seekable file.

    Raises:
        ArchiveInvalid: it is not a zip, or its directory is damaged or too large.
    """
    try:
        archive = zipfile.ZipFile(cast("IO[bytes]", _Bounded(file)))
    except _BROKEN as failure:
        raise ArchiveInvalid(f"the upload is not a zip, or a damaged one ({failure})") from None
    _correct_names(archive.infolist())
    return archive


def picture_entries(
    archive: zipfile.ZipFile, *, max_pictures: int, max_bytes: int
) -> list[zipfile.ZipInfo]:
    """The entries that become jobs: all files except those added by desktop systems.

    Raises:
        BatchEmpty: there are none.
        BatchTooLarge: there are too many, or their declared total size is too large.
        ArchiveInvalid: one has a password or an unsupported compression method.
    """
    entries = [entry for entry in archive.infolist() if not _is_system_file(entry)]
    if not entries:
        raise BatchEmpty
    if len(entries) > max_pictures:
        raise BatchTooLarge(limit=max_pictures, of="pictures")
    if sum(entry.file_size for entry in entries) > max_bytes:
        raise BatchTooLarge(limit=max_bytes, of="bytes")
    for number, entry in enumerate(entries, start=1):
        if entry.flag_bits & _ENCRYPTED:
            raise ArchiveInvalid(f"file {number} of the zip has a password")
        if entry.compress_type not in _METHODS:
            raise ArchiveInvalid(
                f"file {number} of the zip has compression method {entry.compress_type}"
            )
    return entries


def check_is_file(entry: zipfile.ZipInfo) -> None:
    """Check that an entry is a regular file.

    Raises:
        ImageUnsupported: it is a link or a device.
    """
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise unsupported("a link" if kind == stat.S_IFLNK else "not a regular file")


def inflated(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of an entry, in chunks: never more than declared.

    Raises:
        EntryDamaged: size or checksum do not match the directory.
    """
    size = 0
    try:
        with archive.open(entry) as file:
            while piece := file.read(CHUNK):
                size += len(piece)
                yield piece
    except _BROKEN as failure:
        raise EntryDamaged(str(failure) or "it ends too early") from None
    if size != entry.file_size:
        raise EntryDamaged(f"it has {size:,} bytes instead of {entry.file_size:,}")


def _is_system_file(entry: zipfile.ZipInfo) -> bool:
    *folders, name = entry.filename.replace("\\", "/").split("/")
    return (
        not name
        or name.startswith(".")
        or name.lower() in _SYSTEM_FILES
        or _SYSTEM_FOLDER in folders
    )


def _correct_names(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Set the names of all entries; guess one encoding for all names that do not declare it.

    A flag says UTF-8; a name without it is in code page 437, by the specification. But archivers
    write UTF-8 without the flag too, and those of Japanese Windows write Shift-JIS. Some add the
    name in UTF-8 as an extra field (APPNOTE.TXT, section 4.6.9).
    """
    unsure = [entry for entry in entries if not entry.flag_bits & _FLAG_UTF8]
    # `zipfile` decoded them as code page 437, in which every byte is a character.
    written = [entry.orig_filename.encode("cp437") for entry in unsure]
    for entry, raw, name in zip(unsure, written, _decoded(written), strict=True):
        entry.filename = (_in_extra_field(entry.extra, raw) or name).partition("\0")[0]


def _in_extra_field(extra: bytes, name: bytes) -> str | None:
    """UTF-8 name in the extra field, if its checksum matches this name."""
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
    with suppress(UnicodeDecodeError):
        return [name.decode() for name in names]
    with suppress(UnicodeDecodeError):
        japanese = [name.decode("cp932") for name in names]
        if any(map(_is_japanese, names, japanese)):
            return japanese
    return [name.decode("cp437") for name in names]


def _is_japanese(name: bytes, decoded: str) -> bool:
    evidence = _JAPANESE_PAIR if _WESTERN.fullmatch(name) else _JAPANESE
    return evidence.search(decoded) is not None
