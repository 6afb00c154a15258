"""Blobs as files in one folder, which may be shared between hosts.

A blob is written to a temporary file in the same folder, synced, and renamed. Redis syncs each
write too, so after a power failure no accepted job has an empty picture.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from workers.contract.blobs.base import (
    CHUNK,
    FOLDERS,
    BlobEntry,
    BlobStore,
    StorageCapacity,
    StoredBlob,
    checked_key,
    is_key,
    translated_disk_errors,
    write_pieces,
)
from workers.contract.errors import BlobMissing, StorageUnavailable


class FileBlobStore(BlobStore):
    """`BlobStore` for a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for folder in (*FOLDERS, "incoming"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """The file of a blob, whether it exists or not."""
        return self.root / checked_key(key)

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        path = self.root / "incoming" / secrets.token_hex(16)
        with _translated_errors():
            file = path.open("w+b")
        try:
            yield file
        finally:
            with suppress(OSError):  # the data was flushed already, so a full disk was reported
                file.close()
            with suppress(OSError):  # the janitor removes it
                path.unlink()

    def keep(self, file: BinaryIO, key: str) -> None:
        place = self.path(key)
        with _translated_errors():
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).rename(place)
            folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        with self.incoming() as file:
            size, sha256 = write_pieces(file, chunks)
            self.keep(file, key)
        return StoredBlob(key=key, size=size, sha256=sha256)

    def read(self, key: str) -> bytes:
        with _translated_errors(self.path(key)):
            return self.path(key).read_bytes()

    def stream(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        with _translated_errors(self.path(key)):
            file = self.path(key).open("rb")
            end = os.fstat(file.fileno()).st_size if stop is None else stop
            file.seek(start)
        return _pieces(file, end - start)

    def exists(self, key: str) -> bool:
        try:
            with _translated_errors(self.path(key)):
                self.path(key).stat()
        except BlobMissing:
            return False
        return True

    def copy(self, source: str, target: str) -> None:
        with self.incoming() as file:
            place = self.path(source)
            with _translated_errors(place), place.open("rb") as original:
                shutil.copyfileobj(original, file, CHUNK)
            self.keep(file, target)

    def delete(self, *keys: str) -> None:
        with _translated_errors():
            for key in keys:
                self.path(key).unlink(missing_ok=True)

    def entries(self, folder: str) -> Iterator[BlobEntry]:
        with _translated_errors(), os.scandir(self.root / folder) as found:
            for entry in found:
                key = f"{folder}/{entry.name}"
                if not is_key(key) or entry.is_dir():  # such as `.nfs…` of an open file
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    written_at = datetime.fromtimestamp(status.st_mtime, UTC)
                    yield BlobEntry(key=key, size=status.st_size, written_at=written_at)

    def sweep_incoming(self, *, age: timedelta) -> int:
        oldest, freed = time.time() - age.total_seconds(), 0
        with _translated_errors():
            for path in (self.root / "incoming").iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if status.st_mtime < oldest:
                        path.unlink()
                        freed += status.st_size
        return freed

    def room(self) -> StorageCapacity | None:
        with _translated_errors():
            usage = shutil.disk_usage(self.root)
        return StorageCapacity(free=usage.free, total=usage.total)

    def check(self) -> None:
        with self.incoming() as file, _translated_errors():
            file.write(b"\0")
            file.flush()


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    with file, translated_disk_errors():
        while length > 0 and (piece := file.read(min(CHUNK, length))):
            length -= len(piece)
            yield piece


@contextmanager
def _translated_errors(place: Path | None = None) -> Iterator[None]:
    """Raise our errors for OSError; BlobMissing if only the folder of `place` exists."""
    with translated_disk_errors():
        try:
            yield
        except FileNotFoundError as failure:
            if place is not None and place.parent.is_dir():
                raise BlobMissing(f"{place.parent.name}/{place.name}") from None
            raise StorageUnavailable("its folder is missing") from failure
