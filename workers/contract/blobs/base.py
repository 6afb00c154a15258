"""The protocol of blob stores, shared by service and workers.

A key is `inputs/<name>` or `results/<name>`. Writes are atomic in every store (`file`: a folder,
`s3`: a bucket). Failures of the store raise our own errors, within a stated time.
"""

import errno
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import BinaryIO, NamedTuple, Protocol

from workers.contract.errors import StorageFull, StorageUnavailable
from workers.contract.record import Record

FOLDERS = ("inputs", "results")
#: Chunk size of a streamed blob, in bytes.
CHUNK = 256 * 1024

_KEY = re.compile(rf"({'|'.join(FOLDERS)})/[A-Za-z0-9][A-Za-z0-9._-]{{0,200}}")
#: Error numbers of a full disk, an exceeded quota and an exceeded file size limit.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoredBlob(Record):
    """Size and digest of a blob that was just written."""

    key: str
    size: int
    sha256: str


class BlobEntry(NamedTuple):
    """An entry of a listing."""

    key: str
    size: int
    written_at: datetime


class StorageCapacity(NamedTuple):
    """Free and total bytes of a store."""

    free: int
    total: int


class BlobStore(Protocol):
    """Blob storage.

    Every method may raise StorageUnavailable (unreachable, or access denied), and writing methods
    StorageFull; a failed write leaves nothing behind. An invalid key raises ValueError.
    """

    def incoming(self) -> AbstractContextManager[BinaryIO]:
        """A local temporary file for `keep`; deleted at the end of the block."""

    def keep(self, file: BinaryIO, key: str) -> None:
        """Store a file from `incoming` under a key."""

    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        """Store a blob, replacing one with the same key."""

    def read(self, key: str) -> bytes:
        """The whole blob.

        Raises:
            BlobMissing: there is no such blob.
        """

    def stream(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop` (None: the end), in chunks.

        Raises:
            BlobMissing: there is no such blob; raised here, not at the first chunk.
        """

    def exists(self, key: str) -> bool:
        """True if there is such a blob."""

    def copy(self, source: str, target: str) -> None:
        """Copy a blob to another key; its age starts anew.

        Raises:
            BlobMissing: there is no such blob.
        """

    def delete(self, *keys: str) -> None:
        """Delete blobs; missing ones are ignored."""

    def entries(self, folder: str) -> Iterator[BlobEntry]:
        """Every blob of `inputs` or `results`, unordered; concurrent changes may appear."""

    def sweep_incoming(self, *, age: timedelta) -> int:  # noqa: ARG002 - for stores with such files
        """Delete temporary files of killed processes; returns the freed bytes."""
        return 0

    def room(self) -> StorageCapacity | None:
        """Free and total bytes; None if unknown."""
        return None

    def signed_url(
        self,
        key: str,  # noqa: ARG002 - for stores that sign
        *,
        lifetime: timedelta,  # noqa: ARG002
        media_type: str,  # noqa: ARG002
        disposition: str,  # noqa: ARG002
    ) -> str | None:
        """A signed URL from which anyone may fetch the blob for a while; None if unsupported."""
        return None

    def check(self) -> None:
        """Check that the store can be used now.

        Raises:
            StorageUnavailable: unreachable, or access denied.
            StorageFull: there is no room.
        """


def checked_key(key: str) -> str:
    """Validate a key.

    Raises:
        ValueError: the key is malformed.
    """
    if not is_key(key):
        raise ValueError(f"not a blob key: {key!r}")
    return key


def is_key(key: str) -> bool:
    """True if a key is well-formed."""
    return _KEY.fullmatch(key) is not None


def write_pieces(file: BinaryIO, pieces: Iterable[bytes]) -> tuple[int, str]:
    """Write to a local file; returns the number of bytes and their SHA-256.

    Raises:
        StorageFull, StorageUnavailable: as the store itself.
    """
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        with translated_disk_errors():
            file.write(piece)
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


@contextmanager
def translated_disk_errors() -> Iterator[None]:
    """Raise StorageFull for the operating system's errors of a full disk, and StorageUnavailable
    for all others, such as those of a disk that has become read-only.
    """
    try:
        yield
    except OSError as failure:
        if failure.errno in _NO_ROOM:
            raise StorageFull from failure
        raise StorageUnavailable(failure.strerror or type(failure).__name__) from failure
