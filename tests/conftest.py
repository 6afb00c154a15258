"""Fixtures that many rooms share: a real Valkey and a blob store of the test's own."""

import os
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from processes import ValkeyServer, running_valkey

from model.process import prepare_process
from workers.contract.blobs.file import FileBlobStore
from workers.contract.queue.connection import connect

# A trial at each start of an engine would take time. `GDSR_CPU_BACKEND=openvino pytest` runs the
# same tests on the other library.
os.environ.setdefault("GDSR_CPU_BACKEND", "torch")
prepare_process(None)  # before any test imports torch: spinning threads would starve the others


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give each operation of schemathesis an id of its own: pytest 9.2 leaves the operation out."""
    if not item.nodeid.endswith(item.name):
        item._id = item.parent.id.child(item.name)  # type: ignore[union-attr]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests with the same id: of these, xdist would run one, and not say so."""
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise ValueError(f"several tests have the same id: {', '.join(twice)}")


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendfsync", "no")  # none of its tests ends it: wait for no disk
        yield server


@pytest.fixture
def valkey(shared_valkey: ValkeyServer) -> ValkeyServer:
    """A running Valkey, empty at the start of the test."""
    with redis.Redis.from_url(shared_valkey.url) as client:
        client.flushall()
    return shared_valkey


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with connect(valkey.url, timeout=timedelta(seconds=5), retries=0) as client:
        yield client


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobStore:
    return FileBlobStore(tmp_path / "blobs")
