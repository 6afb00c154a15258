"""The `gdsr-service` process starts, bounds its memory and ends as documented."""

import io
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
import redis
from factories import engine_info, register
from processes import ValkeyServer, wait_for
from serving import PICTURE, TIMEOUT, problem_of

from service.http.server import listen
from workers.contract.queue.runs import ACTIVE

COMMAND = (sys.executable, "-m", "service")
MIB = 1024**2


class Process:
    """A running `gdsr-service`."""

    def __init__(self, process: subprocess.Popen[str], http: httpx2.Client, log: Path) -> None:
        self.process = process
        self.http = http
        self.log = log

    def peak_memory(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


@pytest.fixture
def launch(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """A function that starts a service process with a changed environment or a limit."""
    log = tmp_path / "service.log"
    environment = os.environ | {
        "GDSR_REDIS_URL": valkey.url,
        "GDSR_BLOB_DIR": str(tmp_path / "blobs"),
        "GDSR_PORT": "0",
    }

    @contextmanager
    def running(
        before: Callable[[], None] | None, within: tuple[str, ...], changes: dict[str, str]
    ) -> Iterator[Process]:
        with log.open("w") as file:
            process = subprocess.Popen(
                (*within, *COMMAND),
                env=environment | changes,
                stderr=file,
                preexec_fn=before,  # noqa: PLW1509
                text=True,
            )
        try:
            address = wait_for(lambda: re.search(r"http://[\d.]+:\d+", log.read_text()))[0]
            with httpx2.Client(base_url=address, timeout=TIMEOUT) as http:
                yield Process(process, http, log)
        finally:
            process.kill()
            process.wait()

    with ExitStack() as stack:
        with redis.Redis.from_url(valkey.url) as client:
            register(client, engine_info())
        yield lambda before=None, *within, **changes: stack.enter_context(
            running(before, within, changes)
        )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_upload_takes_the_memory_of_a_chunk(launch: Callable[..., Process]) -> None:
    service = launch()
    warm = service.http.post("/upscale", files={"image": PICTURE})
    before = service.peak_memory()

    def picture() -> Iterator[bytes]:
        yield PICTURE
        for _ in range(60):
            yield bytes(MIB)

    raw = service.http.post("/upscale", content=picture())
    form = service.http.post("/upscale", files={"image": PICTURE + bytes(60 * MIB)})

    assert {warm.status_code, raw.status_code, form.status_code} == {202}
    assert raw.json()["image"]["size"] == form.json()["image"]["size"] == len(PICTURE) + 60 * MIB
    assert service.peak_memory() - before < 20 * MIB


def test_a_store_without_room_is_a_problem_and_leaves_nothing(
    launch: Callable[..., Process], tmp_path: Path
) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    service = launch(small_files)

    for response in (
        service.http.post("/upscale", content=PICTURE + bytes(MIB)),
        service.http.post("/upscale", files={"image": PICTURE + bytes(MIB)}),
    ):
        assert response.status_code == 507
        assert problem_of(response) == "storage-full"
        assert response.headers["Retry-After"] == "60"
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
    assert service.http.post("/upscale", content=PICTURE).status_code == 202


def test_a_full_disk_is_a_problem_until_there_is_room(
    launch: Callable[..., Process], tmp_path: Path
) -> None:
    namespaces = "unshare", "--map-root-user", "--mount"
    if subprocess.run([*namespaces, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a mount namespace")
    folder = tmp_path / "blobs"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs {shlex.quote(str(folder))} && exec "$@"'
    service = launch(None, *namespaces, "sh", "-c", mount, "sh")
    disk = Path(f"/proc/{service.process.pid}/root{folder}")
    with (disk / "hog").open("wb", buffering=0) as hog, suppress(OSError):
        while True:
            hog.write(bytes(4096))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.png", PICTURE)

    for path, body in (
        ("/upscale", {"content": PICTURE}),
        ("/upscale", {"files": {"image": PICTURE}}),
        ("/batches", {"content": zipped.getvalue()}),
        ("/batches", {"files": [("image", PICTURE), ("image", PICTURE)]}),
    ):
        response = service.http.post(path, **body)
        assert (response.status_code, problem_of(response)) == (507, "storage-full")
        assert response.headers["Retry-After"] == "60"
    assert service.http.get("/readyz").status_code == 503
    assert [path.name for path in disk.rglob("*") if path.is_file()] == ["hog"]

    (disk / "hog").unlink()
    assert service.http.get("/readyz").status_code == 200
    assert service.http.post("/upscale", content=PICTURE).status_code == 202


def test_sigterm_ends_requests_that_wait_and_then_the_process(
    launch: Callable[..., Process], client: redis.Redis
) -> None:
    service = launch()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            service.http.post, "/upscale", content=PICTURE, headers={"Prefer": "wait=50"}
        )
        wait_for(lambda: client.zcard(ACTIVE), what="the job")

        service.process.send_signal(signal.SIGTERM)

        assert waiting.result().status_code == 202
    assert service.process.wait(timeout=TIMEOUT) == 0


def test_the_log_is_json_lines_without_names_and_queries(
    launch: Callable[..., Process],
) -> None:
    service = launch()
    job = service.http.post("/upscale?quality=77", files={"image": ("holiday.png", PICTURE)}).json()
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(timeout=TIMEOUT) == 0

    log = service.log.read_text()
    lines = [json.loads(line) for line in log.splitlines()]

    assert {line["process"] for line in lines} == {"service"}
    (request,) = [line for line in lines if line["message"].startswith("POST /upscale 202")]
    assert request["job"] == job["id"]
    assert "holiday" not in log
    assert "quality" not in log


def _python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )


def _failing(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        ended = _failing("--port", port, GDSR_BLOB_DIR=str(tmp_path))

    assert ended.returncode == 78
    assert ended.stderr.startswith(
        f"gdsr-service: cannot listen on 127.0.0.1:{port}: {os.strerror(98)}; set GDSR_HOST"
    )
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GDSR_PORT", "99999"),
        ("GDSR_REDIS_URL", "http://localhost"),
        ("GDSR_BLOB_DIR", "/proc/blobs"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(tmp_path: Path, name: str, value: str) -> None:
    ended = _failing(**{"GDSR_BLOB_DIR": str(tmp_path), name: value})

    assert ended.returncode == 78
    assert ended.stderr.startswith("gdsr-service: ")
    assert name in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_wrong_argument_is_a_matter_of_usage() -> None:
    ended = _failing("--port", "http")

    assert ended.returncode == 2
    assert "--port: 'http' is not a port, 0 to 65535" in ended.stderr


def test_help_needs_no_framework() -> None:
    script = (
        "import sys\nsys.argv = ['gdsr-service', '--help']\n"
        "from service.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print({'fastapi', 'uvicorn', 'pydantic', 'redis'} & set(sys.modules))"
    )

    shown = _python(script)

    assert "--port" in shown.stdout
    assert shown.stdout.endswith("set()\n")


def test_the_service_knows_nothing_of_pixels_and_networks() -> None:
    script = (
        "import sys, service.app, service.http.server\n"
        "print({'torch', 'numpy', 'PIL', 'model', 'fastapi_offline'} & set(sys.modules))"
    )

    shown = _python(script)

    assert (shown.stdout, shown.stderr) == ("set()\n", "")


def test_the_body_of_an_answer_does_not_wait_until_its_head_is_acknowledged() -> None:
    with listen(host="127.0.0.1", port=0) as listening:
        address = listening.getsockname()
        with socket.create_connection(address), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
