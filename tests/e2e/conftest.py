"""A Valkey that the test may kill, and a site on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Site
from networks import tiny_checkpoint
from processes import ValkeyServer, running_valkey


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def site(server: ValkeyServer, tmp_path: Path) -> Site:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors")
    return Site(server.url, tmp_path / "blobs", checkpoint)
