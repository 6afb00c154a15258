"""Connections that stay silent or do not read are closed, and do not block other clients."""

import json
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import httpx2
import pytest
from factories import engine_info, register
from processes import ValkeyServer, wait_for
from serving import PICTURE, TIMEOUT, Serve, Site, served

from service.http.server import raised_file_limit
from service.settings import ServiceSettings
from workers.contract.blobs.base import CHUNK
from workers.contract.blobs.file import FileBlobStore

PATIENCE = timedelta(seconds=2)
LIMIT = 20


@pytest.fixture
def site(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Site]:
    """A service with short timeouts and few connections."""
    settings = ServiceSettings(
        redis_url=valkey.url,
        blob_dir=tmp_path / "blobs",
        max_upload_bytes=50_000_000,
        head_timeout=PATIENCE,
        body_timeout=PATIENCE,
    )
    with served(settings, max_connections=LIMIT) as site:
        register(site.redis, engine_info())
        yield site


def connected(site: Site, sent: bytes = b"") -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((site.http.base_url.host, site.http.base_url.port))
    connection.sendall(sent)
    return connection


def is_cut(connection: socket.socket) -> bool:
    """Read until the connection is closed."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


def test_silent_connections_leave_room_for_others(site: Site) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(site)) for _ in range(3 * LIMIT)]
        with httpx2.Client(base_url=site.http.base_url, timeout=TIMEOUT) as another:
            assert another.get("/livez").status_code == 200

        assert all(map(is_cut, silent))
    assert site.http.get("/livez").status_code == 200


@pytest.mark.slow
def test_a_crowd_of_silent_connections_neither_stops_the_service_nor_fills_its_log(
    valkey: ValkeyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = ServiceSettings(
        redis_url=valkey.url, blob_dir=tmp_path / "blobs", head_timeout=timedelta(seconds=2)
    )
    with served(settings) as site, ExitStack() as stack:
        register(site.redis, engine_info())
        silent = [stack.enter_context(connected(site)) for _ in range(1100)]
        assert site.post().status_code == 202
        assert all(map(is_cut, silent))
        assert site.http.get("/livez").status_code == 200

    assert len(caplog.records) < 20


def test_requests_under_way_are_not_cut_for_others(valkey: ValkeyServer, tmp_path: Path) -> None:
    settings = ServiceSettings(redis_url=valkey.url, blob_dir=tmp_path / "blobs")
    head = b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with served(settings, max_connections=2) as site, ExitStack() as stack:
        register(site.redis, engine_info())
        uploads = [stack.enter_context(connected(site, head % len(PICTURE))) for _ in range(2)]
        wait_for(lambda: len(site.server.server_state.tasks) == 2, what="two uploads")
        with connected(site, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") as late:
            refused = late.recv(4096)
        for upload in uploads:
            upload.sendall(PICTURE)
        answers = [upload.recv(4096) for upload in uploads]

    assert refused.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: 5\r\n" in refused
    assert b"\r\ncontent-type: application/problem+json\r\n" in refused
    assert all(answer.startswith(b"HTTP/1.1 202") for answer in answers)


@pytest.mark.parametrize(
    "unfinished",
    [
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ",
        b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc",
        b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
    ],
)
def test_a_request_that_stalls_is_cut(site: Site, unfinished: bytes) -> None:
    with connected(site, unfinished) as connection:
        assert is_cut(connection)
    wait_for(lambda: not site.stored(), what="an empty folder")


def test_a_download_that_is_not_read_is_cut(site: Site) -> None:
    job_id = site.submit()
    site.succeed(job_id, bytes(30_000_000))
    asked = f"GET /jobs/{job_id}/result HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as stack:
        downloads = [stack.enter_context(connected(site, asked)) for _ in range(5)]
        assert [download.recv(8) for download in downloads] == [b"HTTP/1.1"] * 5
        wait_for(lambda: len(site.server.server_state.connections) <= 1, what="cut connections")
    assert len(site.http.get(f"/jobs/{job_id}/result").content) == 30_000_000


class Stalled(FileBlobStore):
    """Reads no more than the first chunk of a blob, and takes no upload, until it is released."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.released = threading.Event()

    def stream(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        chunks = super().stream(key, start=start, stop=stop)
        yield next(chunks)
        self.released.wait()
        yield from chunks

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        self.released.wait()
        with super().incoming() as file:
            yield file


def test_other_requests_do_not_wait_for_chunks_of_many_downloads(serve: Serve) -> None:
    site = serve()
    register(site.redis, engine_info())
    job_id = site.submit()
    site.succeed(job_id, bytes(1_000_000))
    site.server.app.state.services.blobs = store = Stalled(site.blobs.root)
    asked = f"GET /jobs/{job_id}/result HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    with ExitStack() as stack:
        stack.callback(store.released.set)
        for _ in range(50):  # more than the threads that serve requests
            download = stack.enter_context(connected(site, asked))
            assert download.recv(CHUNK, socket.MSG_WAITALL)
        assert site.http.get("/limits", timeout=20).status_code == 200


def test_other_requests_do_not_wait_for_chunks_of_many_uploads(serve: Serve) -> None:
    site = serve(max_upload_bytes=10 * CHUNK)
    site.server.app.state.services.blobs = store = Stalled(site.blobs.root)
    head = b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"

    with ExitStack() as stack:
        stack.callback(store.released.set)
        for _ in range(50):
            stack.enter_context(connected(site, head % (10 * CHUNK) + bytes(2 * CHUNK)))
        for _ in range(20):
            assert site.http.get("/limits", timeout=20).status_code == 200


def test_a_client_that_still_sends_sees_its_refusal_and_that_the_connection_closes(
    serve: Serve,
) -> None:
    site = serve()
    body = bytes(3_000_000)
    head = b"POST /upscale?quality=0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with connected(site, head % len(body) + body) as connection:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 422")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert b"quality" in answer


def test_a_connection_whose_bodies_were_read_stays_open(serve: Serve) -> None:
    site = serve()
    register(site.redis, engine_info())
    for content in (PICTURE, b"no picture", b""):
        assert "Connection" not in site.post(content).headers


def test_a_client_that_asks_first_is_refused_before_it_sends(serve: Serve) -> None:
    site = serve()
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    with connected(site, head + b"Expect: 100-continue\r\n\r\n") as connection:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 404")
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_nothing_is_read_after_a_request_of_two_lengths(site: Site) -> None:
    """A proxy that goes by the other length takes the rest for part of the first request."""
    head = b"POST /upscale HTTP/1.1\r\nHost: localhost\r\n"
    body = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    hidden = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(site, head + body + hidden) as connection:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_body_after_its_refusal_is_not_read_for_ever(site: Site) -> None:
    head = b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n"
    with connected(site, head) as connection, pytest.raises(ConnectionError):
        connection.sendall(bytes(60_000_000))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX-A: b\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: " + 66_000 * b"a", 431),
        (b"POST /upscale HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
def test_bytes_that_are_no_http_request_get_a_problem_too(
    sent: bytes, status: int, site: Site
) -> None:
    with connected(site, sent) as connection:
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["detail"].startswith("the request is not valid HTTP: ")


def test_a_body_that_goes_wrong_after_its_refusal_is_no_error_of_the_service(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /upscale?quality=0 HTTP/1.1\r\nHost: localhost\r\n"
    with connected(site, head + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        assert connection.recv(12) == b"HTTP/1.1 422"
        connection.sendall(b"no length\r\n")
        assert is_cut(connection)

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_the_service_asks_for_the_files_that_it_may_have() -> None:
    files = raised_file_limit()

    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(
        files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    )
    assert files >= 1024
