"""A store that is away or full for a while costs a job time, and not its life."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import wait_for
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from workers.contract.blobs.file import FileBlobStore
from workers.contract.errors import StorageUnavailable
from workers.tasks.upscale import patiently


def test_a_result_is_stored_once_the_store_is_back(
    blobs: FileBlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    away = blobs.root.with_name("away")
    blobs.root.rename(away)
    with ThreadPoolExecutor(1) as pool:
        stored = pool.submit(patiently, lambda: blobs.write("results/a", [b"picture"]))
        wait_for(lambda: "waiting for the picture store" in caplog.text, what="a word in the log")
        away.rename(blobs.root)

        assert stored.result().size == 7
    assert blobs.read("results/a") == b"picture"


def test_the_time_limit_ends_the_wait_and_says_for_what(blobs: FileBlobStore) -> None:
    blobs.root.rename(blobs.root.with_name("away"))

    with pytest.raises(StorageUnavailable), UnixSignalDeathPenalty(1, JobTimeoutException):
        patiently(lambda: blobs.write("results/a", [b"picture"]))
