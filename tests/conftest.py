"""Fixtures that many tests share: an empty Valkey and an empty blob store."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
import redis
from processes import ValkeyServer, running_valkey

from model.process import prepare_process
from workers.contract import sentinel
from workers.contract.blobs.file import FileBlobStore
from workers.contract.queue import admission, connection
from workers.contract.queue.connection import connect

# The default is torch, since an engine that tries both libraries starts slowly.
# `GDSR_CPU_BACKEND=openvino pytest` runs the same tests on OpenVINO.
os.environ.setdefault("GDSR_CPU_BACKEND", "torch")
# The servers of tests are on this machine, whatever proxy the environment names.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = f"{os.environ.get(name, '')},127.0.0.1,localhost".lstrip(",")
# A shell ignores SIGINT for background processes; tests send it, also to processes of their own.
signal.signal(signal.SIGINT, signal.default_int_handler)
prepare_process(None)  # before a test imports torch: its spinning threads would starve the others


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give each schemathesis operation its own id: pytest 9.2 leaves the operation out."""
    if not item.nodeid.endswith(item.name):
        item._id = item.parent.id.child(item.name)  # type: ignore[union-attr]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests that share an id: xdist would run only one of them, without a warning."""
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise ValueError(f"several tests have the same id: {', '.join(twice)}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Report the exit status of a lost test process: xdist names only its test."""
    if error:
        status = node.gateway._io.popen.wait(timeout=10)
        sys.stderr.write(f"\n[{node.gateway.id}] exit status {status} (below 0: a signal)\n")


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendfsync", "no")  # no test restarts it: do not wait for the disk
        yield server


@pytest.fixture
def valkey(shared_valkey: ValkeyServer) -> ValkeyServer:
    """A running Valkey, emptied before the test."""
    with redis.Redis.from_url(shared_valkey.url) as client:
        client.flushall()
    return shared_valkey


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with connect(valkey.url, timeout=timedelta(seconds=60), retries=0) as client:
        yield client


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give servers a minute to answer at a start: one that is late is only logged, not refused."""
    monkeypatch.setattr(connection, "_CONNECT_SECONDS", 60)
    monkeypatch.setattr(sentinel, "_SENTINEL_SECONDS", 60)


class _Noon(datetime):
    """Time stands still at noon."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "_Noon":
        return cls(2026, 3, 4, 12, tzinfo=tz)


@pytest.fixture(autouse=True)
def _at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count pixels at noon: the quota of a day begins anew at midnight (UTC)."""
    monkeypatch.setattr(admission, "datetime", _Noon)


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobStore:
    return FileBlobStore(tmp_path / "blobs")
