"""Where pictures are stored between the service and the workers.

A key is `inputs/<name>` or `results/<name>`. A blob is there whole or not at all, whatever keeps
it: `file` a folder, `s3` a bucket. What does not answer, does not let us in or has no
room is said in our own errors, within a stated time.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, NamedTuple, Protocol

from workers.contract.errors import StorageFull

FOLDERS = ("inputs", "results")
#: Bytes of a piece of a streamed blob.
CHUNK = 256 * 1024

_KEY = re.compile(rf"({'|'.join(FOLDERS)})/[A-Za-z0-9][A-Za-z0-9._-]{{0,200}}")
#: What a full disk, a full quota and a file over the size limit say.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob that was just written."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobEntry:
    """A blob as a listing shows it."""

    key: str
    size: int
    written_at: datetime


class StorageCapacity(NamedTuple):
    """What fits into a store, in bytes."""

    free: int
    total: int


class BlobStore(Protocol):
    """What service and workers do with blobs.

    Every method may raise StorageUnavailable (it does not answer, or not to us), and those that
    write StorageFull; then nothing is left behind. A key that is not of the form above is a
    ValueError.
    """

    def incoming(self) -> AbstractContextManager[BinaryIO]:
        """A temporary file on this machine, for `keep`; gone at the end."""
        ...

    def keep(self, file: BinaryIO, key: str) -> None:
        """Give what is in a file from `incoming` its key."""
        ...

    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        """Store a blob; one of that key is replaced."""
        ...

    def read(self, key: str) -> bytes:
        """The whole blob.

        Raises:
            BlobMissing: it is not there.
        """
        ...

    def stream(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop` (None: the end), a piece at a time.

        Raises:
            BlobMissing: it is not there; raised here, not at the first piece.
        """
        ...

    def size(self, key: str) -> int | None:
        """Bytes of the blob; None: it is not there."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the blob is there."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Store the same bytes under another key too; its age begins now.

        Raises:
            BlobMissing: the source is not there.
        """
        ...

    def delete(self, *keys: str) -> None:
        """Remove blobs; it is no error when one is gone already."""
        ...

    def entries(self, folder: str) -> Iterator[BlobEntry]:
        """Every blob of `inputs` or `results`, in no order; changes meanwhile may show or not."""
        ...

    def sweep_incoming(self, *, age: timedelta) -> int:
        """Remove temporary files that a killed process left behind; how many bytes that frees."""
        ...

    def room(self) -> StorageCapacity | None:
        """What fits into the store; None: it does not say."""
        ...

    def signed_address(
        self, key: str, *, lifetime: timedelta, media_type: str, disposition: str
    ) -> str | None:
        """A URL at which anyone may fetch the blob for a while; None: this store has none."""
        ...

    def check(self) -> None:
        """Return if the store can be used now.

        Raises:
            StorageUnavailable: it does not answer, or not to us.
            StorageFull: there is no room.
        """
        ...


def checked_key(key: str) -> str:
    """The key, if it is one.

    Raises:
        ValueError: it is not of the form above.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a blob key: {key!r}")
    return key


@contextmanager
def no_room_is_storage_full() -> Iterator[None]:
    """Turn the operating system's words for a full disk into ours."""
    try:
        yield
    except OSError as failure:
        if failure.errno in _NO_ROOM:
            raise StorageFull from failure
        raise
