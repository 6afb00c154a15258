"""Services for the tests of this folder."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from factories import engine_info, register
from processes import ValkeyServer, running_valkey
from serving import Serve, Site, served

from service.jobs import results
from service.settings import ServiceSettings


@pytest.fixture(scope="session")
def shared_site(
    shared_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    settings = ServiceSettings(
        redis_url=shared_valkey.url,
        blob_dir=tmp_path_factory.mktemp("blobs"),
        max_upload_bytes=100_000,
        max_pixels=100_000,
        max_queued_jobs=3,
        max_wait=timedelta(seconds=50),
    )
    with served(settings) as site:
        yield site


@pytest.fixture
def bare_site(shared_site: Site, valkey: ValkeyServer) -> Site:  # noqa: ARG001 - empties Redis
    """A service without workers, with empty stores."""
    for name in shared_site.stored():
        (shared_site.blobs.root / name).unlink(missing_ok=True)
    return shared_site


@pytest.fixture
def site(bare_site: Site) -> Site:
    """A service with an engine that is ready."""
    register(bare_site.redis, engine_info())
    return bare_site


@pytest.fixture
def serve(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Serve]:
    """A function that starts a service with the test's settings."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Site:
            defaults = {"redis_url": valkey.url, "blob_dir": tmp_path / "blobs"}
            return stack.enter_context(served(ServiceSettings(**{**defaults, **settings})))

        yield start


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests that wait look after their job and their client ten times a second."""
    monkeypatch.setattr(results, "_POLL", timedelta(seconds=0.1))


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey that the test may kill."""
    with running_valkey(tmp_path / "valkey") as server:
        yield server
