"""Where pictures are stored between the service and the workers.

A key is `inputs/<name>` or `results/<name>`. A blob is there whole or not at all: it is written to
a temporary file beside its place and renamed into it.
"""

import errno
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from workers.contract.errors import BlobMissing, StorageFull

_KEY = re.compile(r"(inputs|results)/[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
#: What a full disk, a full quota and a file over the size limit say.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob that was just written."""

    key: str
    size: int
    sha256: str


class FileBlobStore:
    """Blobs as files in one folder, which may be shared between hosts."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for folder in ("inputs", "results", "incoming"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """The file of a blob, whether it exists or not.

        Raises:
            ValueError: the key is not of the form above.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a blob key: {key!r}")
        return self.root / key

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        """A temporary file inside the store, for `keep`; gone at the end if it was not kept."""
        path = self.root / "incoming" / secrets.token_hex(16)
        with no_room_is_storage_full():
            file = path.open("w+b")
        try:
            with file:
                yield file
        finally:
            path.unlink(missing_ok=True)

    def keep(self, file: BinaryIO, key: str) -> None:
        """Give a file from `incoming` its key."""
        with no_room_is_storage_full():
            file.flush()
            Path(file.name).rename(self.path(key))

    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        """Store a blob.

        Raises:
            StorageFull: there is no room; nothing is left behind.
        """
        digest = hashlib.sha256()
        size = 0
        with self.incoming() as file, no_room_is_storage_full():
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            self.keep(file, key)
        return StoredBlob(key=key, size=size, sha256=digest.hexdigest())

    def read(self, key: str) -> bytes:
        """The whole blob.

        Raises:
            BlobMissing: it is not there.
        """
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            raise BlobMissing(key) from None

    def exists(self, key: str) -> bool:
        """Whether the blob is there."""
        return self.path(key).is_file()

    def delete(self, key: str) -> None:
        """Remove a blob; it is no error when it is gone already."""
        self.path(key).unlink(missing_ok=True)

    def expired(self, folder: str, *, age: timedelta) -> Iterator[str]:
        """Keys (and names of `incoming` files) last written longer ago than `age`."""
        oldest = time.time() - age.total_seconds()
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < oldest:
                        yield f"{folder}/{entry.name}"

    def sweep_incoming(self, *, age: timedelta) -> None:
        """Remove temporary files that a killed process left behind."""
        for name in list(self.expired("incoming", age=age)):
            (self.root / name).unlink(missing_ok=True)


@contextmanager
def no_room_is_storage_full() -> Iterator[None]:
    """Turn the operating system's words for a full disk into ours."""
    try:
        yield
    except OSError as failure:
        if failure.errno in _NO_ROOM:
            raise StorageFull from failure
        raise
