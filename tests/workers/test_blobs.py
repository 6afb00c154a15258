"""Blobs are there whole or not at all."""

import os
import time
from datetime import timedelta

import pytest

from workers.contract.blobs import FileBlobStore
from workers.contract.errors import BlobMissing, StorageFull


def files(blobs: FileBlobStore) -> list[str]:
    return sorted(
        str(path.relative_to(blobs.root)) for path in blobs.root.rglob("*") if path.is_file()
    )


def test_what_is_written_can_be_read_and_deleted(blobs: FileBlobStore) -> None:
    stored = blobs.write("inputs/a", [b"pic", b"ture"])

    assert blobs.read("inputs/a") == b"picture"
    assert (stored.size, len(stored.sha256)) == (7, 64)
    blobs.delete("inputs/a")
    blobs.delete("inputs/a")
    with pytest.raises(BlobMissing, match="inputs/a"):
        blobs.read("inputs/a")


def test_a_write_that_breaks_off_leaves_nothing(blobs: FileBlobStore) -> None:
    def chunks() -> object:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        blobs.write("inputs/a", chunks())  # type: ignore[arg-type]
    assert files(blobs) == []


def test_a_full_disk_is_storage_full_and_leaves_nothing(blobs: FileBlobStore) -> None:
    import resource
    import signal

    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, previous[1]))
    try:
        with pytest.raises(StorageFull):
            blobs.write("results/a.png", [b"x" * 10_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, handler)
    assert files(blobs) == []


@pytest.mark.parametrize("key", ["../a", "inputs/../a", "inputs/", "other/a", "inputs/a/b", "/a"])
def test_a_key_cannot_leave_the_store(blobs: FileBlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        blobs.path(key)


def test_only_what_is_old_enough_has_expired(blobs: FileBlobStore) -> None:
    blobs.write("results/old.png", [b""])
    blobs.write("results/new.png", [b""])
    hour_ago = time.time() - 3600
    os.utime(blobs.path("results/old.png"), (hour_ago, hour_ago))

    assert list(blobs.expired("results", age=timedelta(minutes=30))) == ["results/old.png"]


def test_what_a_killed_upload_left_is_swept(blobs: FileBlobStore) -> None:
    (blobs.root / "incoming" / "left").write_bytes(b"half")
    blobs.sweep_incoming(age=timedelta(hours=1))
    assert files(blobs) == ["incoming/left"]

    blobs.sweep_incoming(age=timedelta(seconds=-1))

    assert files(blobs) == []
