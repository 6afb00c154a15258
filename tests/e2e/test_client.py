"""The Python client and `gdsr-upscale --server` work with a real service, workers and queue."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import httpx2
import metrics
import numpy as np
import pytest
from archives import zipped
from factories import engine_info, photo, register, saved
from gdsr_client import (
    AsyncClient,
    Client,
    ClientError,
    DerivedOptions,
    DownloadBroken,
    Job,
    JobLost,
    Options,
    Refused,
    Sent,
    UnexpectedAnswer,
    Unreachable,
    asynchronous,
)
from hosts import Site as Workers
from hosts import noise
from networks import tiny_checkpoint
from PIL import Image
from processes import ValkeyServer, running_valkey, wait_for
from serving import Site, served

from service.access.auth import hash_key, new_key
from service.jobs.options import DerivedFields, ReadFields, UpscaleFields
from service.settings import ServiceSettings

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("client")
    checkpoint = tiny_checkpoint(folder / "tiny.safetensors")
    with running_valkey(folder / "valkey") as valkey:
        workers = Workers(valkey.url, folder / "blobs", checkpoint)
        settings = ServiceSettings(redis_url=valkey.url, blob_dir=folder / "blobs")
        with workers.worker_host(), served(settings) as site:
            yield site


@pytest.fixture
def url(shared: Site) -> str:
    return str(shared.http.base_url)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    path.write_bytes(noise(200, 150))
    return path


class Quiet(BaseHTTPRequestHandler):
    """Base class of handlers that write no log."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def another_server(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve with this handler; yields the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{other.server_port}"
        finally:
            other.shutdown()


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


def test_a_picture_goes_there_and_comes_back_larger_with_progress(
    url: str, picture: Path, tmp_path: Path
) -> None:
    sent: list[Sent] = []
    seen: list[Job] = []
    target = tmp_path / "large.png"
    with Client(url) as client:
        job = client.upscale(
            picture,
            target,
            on_upload=sent.append,
            on_change=seen.append,
            trade_off=0,
        )

    assert size(target) == (600, 800)
    assert sent[-1] == (picture.stat().st_size, picture.stat().st_size)
    assert seen[-1] == job
    assert job.state == "succeeded"
    assert job.result is not None
    assert job.result.size == target.stat().st_size
    assert sorted(one.progress.tiles_done for one in seen) == [
        one.progress.tiles_done for one in seen
    ]


def test_progress_prints_well_and_paths_may_be_text(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, target = str(tmp_path / "small.png"), str(tmp_path / "large.png")
    kilobytes = round(Path(picture).write_bytes(noise(200, 150)) / 1000)
    with Client(url) as client:
        assert repr(client) == f"<Client {url}>"
        job = client.upscale(picture, target, on_upload=print, on_change=print)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"sent {kilobytes} kB of {kilobytes} kB"
    assert lines[-1] == str(job) == f"succeeded, {job.result}"
    assert re.fullmatch(r"png of 600 x 800, \d+ kB", str(job.result))
    assert repr(job) == f"<Job {job.id}: {job}>"
    assert {line.partition(",")[0] for line in lines[1:]} <= {"queued", "running", "succeeded"}


def test_type_checkers_know_every_option_of_the_service() -> None:
    assert Options.__annotations__.keys() == UpscaleFields.model_fields.keys()
    derived = ReadFields.model_fields.keys() | DerivedFields.model_fields.keys()
    assert DerivedOptions.__annotations__.keys() == derived


def test_bytes_are_accepted_too_and_a_job_is_followed_to_its_end(url: str) -> None:
    with Client(url) as client:
        job = client.submit(saved(photo(20, 30), "PNG"), model="tiny")
        states = [one.state for one in client.follow(job.id)]

    assert states[-1] == "succeeded"


def test_another_position_of_the_slider_is_fetched_from_kept_branches(
    url: str, picture: Path, tmp_path: Path
) -> None:
    with Client(url) as client:
        job = client.upscale(picture, tmp_path / "half.png", keep_branches=True)
        client.download(job.id, tmp_path / "third.jpg", trade_off=0.35, format="jpeg")

    assert size(tmp_path / "third.jpg") == (600, 800)


def test_a_map_gives_each_pixel_its_trade_off_and_one_level_is_the_plain_one(
    url: str, picture: Path, tmp_path: Path
) -> None:
    white, halves = saved(np.full((4, 3), 255, np.uint8), "PNG"), tmp_path / "halves.png"
    halves.write_bytes(saved(np.repeat([[0], [255]], 2, axis=1).astype(np.uint8), "PNG"))
    with Client(url) as client:
        job = client.upscale(picture, tmp_path / "half.png", keep_branches=True)
        for name, choices in {"psnr": {"trade_off": 0}, "gan": {"trade_off": 1}}.items():
            client.download(job.id, tmp_path / f"{name}.png", **choices)
        client.download(job.id, tmp_path / "white.png", map=white)
        client.download(job.id, tmp_path / "halves.png", map=halves, name="painted.png")
        with pytest.raises(Refused) as refused:
            client.download(job.id, tmp_path / "no.png", map=picture)

    psnr, gan, painted = (
        np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("psnr", "gan", "halves")
    )
    assert (tmp_path / "white.png").read_bytes() == (tmp_path / "gan.png").read_bytes()
    assert np.array_equal(painted[:200], psnr[:200])
    assert np.array_equal(painted[-200:], gan[-200:])
    assert refused.value.problem.type == "/problems/map-invalid"


def test_a_batch_is_fetched_as_one_zip_and_at_another_position(url: str, tmp_path: Path) -> None:
    pictures = zipped({f"{n}.png": saved(photo(20, 30, seed=n), "PNG") for n in range(2)})
    with Client(url) as client:
        batch = client.submit_batch(pictures, model="tiny", keep_branches=True)
        client.download_batch(batch.id, tmp_path / "half.zip")
        client.download_batch(batch.id, tmp_path / "crisp.zip", trade_off=1, format="webp")
        with pytest.raises(Refused) as refused:
            client.download_batch(batch.id, tmp_path / "no.zip", trade_off=2)

    for name, ending in {"half": "png", "crisp": "webp"}.items():
        with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
            assert archive.namelist() == [f"0.{ending}", f"1.{ending}"]
    assert refused.value.problem.type == "/problems/invalid-request"


def test_a_refusal_is_in_the_words_of_the_service(url: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with Client(url) as client, pytest.raises(Refused) as refused:
        client.upscale(broken, tmp_path / "large.png")

    assert refused.value.problem.status == 415
    assert refused.value.problem.type == "/problems/image-unsupported"
    assert "the file is not a picture" in str(refused.value)
    assert not (tmp_path / "large.png").exists()


def test_following_a_job_that_is_erased_ends_with_an_error(url: str) -> None:
    with Client(url) as client:
        job = client.submit(noise(1000, 1000))
        following = client.follow(job.id)
        first = next(following)
        client.discard(job.id)  # cancels it
        client.discard(job.id)  # erases it
        with pytest.raises((JobLost, Refused)):
            client.job(job.id)
        with suppress(JobLost):
            list(following)

    assert not first.ended


@contextmanager
def losing_the_first_reply_to_a_deletion(url: str) -> Iterator[str]:
    """Serve `url` at another address, which breaks the connection instead of that reply."""
    lost: list[str] = []

    class Losing(Quiet):
        def do_GET(self) -> None:
            answer = httpx2.request(self.command, f"{url}{self.path}")
            if self.command == "DELETE" and not lost:
                lost.append(self.path)
                return
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        do_DELETE = do_GET  # noqa: N815 - the name that http.server calls

    with another_server(Losing) as other:
        yield other
    assert lost


def test_a_discard_whose_reply_was_lost_cancels_the_job_once(url: str) -> None:
    with Client(url) as client, losing_the_first_reply_to_a_deletion(url) as lossy:
        job = client.submit(noise(1000, 1001))
        with Client(lossy) as through:
            through.discard(job.id)

        assert client.job(job.id).state == "cancelled"


def test_a_discard_whose_reply_was_lost_deletes_the_job_without_an_error(
    url: str, picture: Path, tmp_path: Path
) -> None:
    with Client(url) as client, losing_the_first_reply_to_a_deletion(url) as lossy:
        job = client.upscale(picture, tmp_path / "large.png")
        with Client(lossy) as through:
            through.discard(job.id)

        with pytest.raises(Refused) as missing:
            client.job(job.id)
    assert missing.value.problem.status == 404


def test_cancelling_the_call_cancels_the_job(
    shared: Site, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynchronous, "_CANCEL_SECONDS", 60)  # the service may be slow
    ids: list[str] = []

    async def give_up() -> None:
        async with AsyncClient(url) as client:
            with anyio.CancelScope() as scope:

                def first_change(job: Job) -> None:
                    ids.append(job.id)
                    scope.cancel()

                await client.upscale(
                    noise(1000, 1000), tmp_path / "large.png", on_change=first_change
                )

    anyio.run(give_up)

    wait_for(lambda: shared.http.get(f"/jobs/{ids[0]}").json()["state"] == "cancelled")


def test_ctrl_c_takes_the_job_along(
    shared: Site, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynchronous, "_CANCEL_SECONDS", 60)  # the service may be slow
    ids: list[str] = []

    def press_ctrl_c(job: Job) -> None:
        if not ids:
            ids.append(job.id)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with Client(url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.upscale(noise(1000, 1000), tmp_path / "large.png", on_change=press_ctrl_c)
        assert shared.http.get(f"/jobs/{ids[0]}").json()["state"] == "cancelled"


def test_a_stream_that_is_followed_ends_with_ctrl_c() -> None:
    with streams_of(event("state", 1, id="x", state="queued")) as (url, known):

        def press_ctrl_c() -> None:
            wait_for(lambda: len(known) > 1, what="a second stream")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        threading.Thread(target=press_ctrl_c).start()
        following = Client(url)
        with following, pytest.raises(KeyboardInterrupt):
            list(following.follow("x"))


def test_more_jobs_than_connections_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "_READ_SECONDS", 5.0)
    count = 101  # httpx opens at most 100

    class Slow(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b": still here\n\n")
                time.sleep(0.3)  # in all longer than the read timeout
            self.wfile.write(event("done", 1, id="x", state="cancelled").encode())

    async def follow_all(url: str) -> list[str]:
        states: list[str] = []

        async def follow(client: AsyncClient) -> None:
            states.extend([job.state async for job in client.follow("x")])

        async with AsyncClient(url, patience=0) as client, anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(follow, client)
        return states

    monkeypatch.setattr(ThreadingHTTPServer, "request_queue_size", count)
    with another_server(Slow) as url:
        states = anyio.run(follow_all, url)

    assert states == count * ["cancelled"]


@pytest.mark.parametrize("key", ["first\nsecond", "schl\u00fcssel", "a b"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="the API key is not one line") as refused:
        AsyncClient("http://127.0.0.1:9", api_key=key)

    assert key not in str(refused.value)


def test_a_service_that_does_not_answer_is_reported_in_time(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9", patience=0.1) as client, pytest.raises(Unreachable) as error:
        client.upscale(noise(8, 8), tmp_path / "large.png")

    assert "http://127.0.0.1:9" in str(error.value)


def test_a_program_that_does_not_close_its_client_ends() -> None:
    script = "from gdsr_client import Client\nclient = Client('http://127.0.0.1:9')\nprint(client)"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT / "service" / "client")},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert (ended.stdout, ended.stderr) == ("<Client http://127.0.0.1:9>\n", "")


@pytest.mark.parametrize("url", ["127.0.0.1:9", "ftp://127.0.0.1:9", "http://[::1"])
def test_an_invalid_address_is_reported_at_once(url: str) -> None:
    with pytest.raises(Unreachable, match=re.escape(url)), Client(url) as client:
        client.limits()


def test_another_program_at_the_address_is_reported(tmp_path: Path) -> None:
    (tmp_path / "limits").write_text("<html>")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "x").write_text("[]")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with another_server(handler) as url, Client(url) as client:
        with pytest.raises(UnexpectedAnswer, match="not a GDSR service"):
            client.limits()
        with pytest.raises(UnexpectedAnswer, match="not the job of a GDSR service"):
            client.job("x")


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (200, {"Content-Encoding": "gzip"}, Unreachable),
        (302, {"Location": "/jobs/x/result"}, Unreachable),
        (200, {"Repr-Digest": "sha-256=:x:"}, DownloadBroken),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error_of_the_client(
    status: int, headers: dict[str, str], error: type[ClientError], tmp_path: Path
) -> None:
    class Unreadable(Quiet):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"unreadable")

    with (
        another_server(Unreadable) as url,
        Client(url, patience=0) as client,
        pytest.raises(error),
    ):
        client.download("x", tmp_path / "large.png")

    assert list(tmp_path.iterdir()) == []


@contextmanager
def streams_of(*bodies: str) -> Iterator[tuple[str, list[str | None]]]:
    """Serve one event stream per body, which breaks after it; later streams are empty. Yields the
    URL and the list of the requests' `Last-Event-ID` headers.
    """
    known: list[str | None] = []

    class Streams(Quiet):
        def do_GET(self) -> None:
            known.append(self.headers["Last-Event-ID"])
            body = bodies[len(known) - 1] if len(known) <= len(bodies) else ""
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(body.encode())

    with another_server(Streams) as url:
        yield url, known


def event(name: str, number: int, **data: object) -> str:
    return f"event: {name}\nid: {number}\ndata: {json.dumps(data)}\n\n"


def test_streams_that_break_at_once_are_asked_for_with_pauses_until_the_patience_ends() -> None:
    queued = event("state", 1, id="x", state="queued")
    with streams_of(queued, queued) as (url, known):
        following = Client(url, patience=1)
        with following, pytest.raises(Unreachable, match="the event stream of job x breaks"):
            list(following.follow("x"))

    # The pauses last at least 0.25, 0.5 and 1 s, and the last one exceeds the patience.
    assert known in ([None, "1"], [None, "1", "1"])


def test_a_stream_that_breaks_after_something_new_is_followed_to_the_end() -> None:
    running = {"id": "x", "state": "running"}
    steps = [event("progress", n, progress={"tiles_done": n, "tiles": 3}) for n in (2, 3)]
    done = event("done", 4, id="x", state="cancelled")
    # This patience allows no two pauses in a row.
    with (
        streams_of(
            event("state", 1, **running), steps[0], steps[1] + "event: done", done
        ) as served,
        Client(served[0], patience=0.6) as client,
    ):
        jobs = list(client.follow("x"))

    assert [job.progress.tiles_done for job in jobs] == [0, 2, 3, 0]
    assert jobs[-1].state == "cancelled"
    assert served[1] == [None, "1", "2", "3"]


def test_a_client_waits_for_a_service_that_restarts_and_makes_one_job(
    server: ValkeyServer, tmp_path: Path
) -> None:
    server.kill()
    settings = ServiceSettings(redis_url=server.url, blob_dir=tmp_path / "blobs")
    with served(settings) as site, ThreadPoolExecutor(1) as pool:
        assert site.post().status_code == 503

        def send() -> Job:
            with Client(str(site.http.base_url), patience=200) as client:
                return client.submit(noise(8, 8))

        def refusals() -> float:
            text = site.http.get("/metrics").text
            return metrics.value(
                text, "gdsr_http_request_seconds_count", method="POST", status="503"
            )

        assert refusals() == 1
        answer = pool.submit(send)
        wait_for(lambda: refusals() > 1, what="a refusal of the client")
        server.start()
        register(site.redis, engine_info())
        job = answer.result()

        assert site.records.active() == [job.id]


def test_an_api_key_is_sent_in_a_header(server: ValkeyServer, tmp_path: Path) -> None:
    key = new_key()
    keys = tmp_path / "keys"
    keys.write_text(f"tester:{hash_key(key)}\n")
    settings = ServiceSettings(
        redis_url=server.url, blob_dir=tmp_path / "blobs", api_keys_file=keys
    )
    with served(settings) as site:
        address = str(site.http.base_url)
        with Client(address) as stranger, pytest.raises(Refused) as refused:
            stranger.job("x")
        with Client(address, api_key=f"{key}\n") as known, pytest.raises(Refused) as missing:
            known.job("x")

    assert (refused.value.problem.status, missing.value.problem.status) == (401, 404)


def command(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.upscale.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'service' / 'client'}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_folder_is_sent_to_a_server_and_its_faults_are_named(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    (folder / "one.png").write_bytes(noise(20, 30))
    (folder / "deeper" / "two.png").write_bytes(noise(30, 20, seed=1))
    (folder / "broken.jpg").write_bytes(b"no picture")
    Path(os.fsdecode(bytes(folder) + b"/na\xefve.png")).write_bytes(noise(20, 30))  # Latin-1
    done = command(folder, "-o", tmp_path / "out", "--server", url, "--scale", "2")

    assert done.returncode == 1
    assert f"{folder / 'broken.jpg'}" in done.stderr
    assert "the file is not a picture" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"made 3 of 4 in {tmp_path / 'out'}: 0.0")
    assert size(tmp_path / "out" / "one.png") == (60, 40)
    assert size(tmp_path / "out" / "deeper" / "two.png") == (40, 60)
    assert size(Path(os.fsdecode(bytes(tmp_path) + b"/out/na\xefve.png"))) == (60, 40)


def test_an_unreachable_server_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(noise(20, 30))
    done = command(
        tmp_path / "one.png", "-o", tmp_path / "large.png", "--server", "http://127.0.0.1:9"
    )

    assert done.returncode == 1
    assert "http://127.0.0.1:9" in done.stderr


@pytest.mark.parametrize(("page", "said"), [("limits", "not a GDSR service"), ("", "not found")])
def test_a_server_that_is_another_program_is_named(page: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(noise(20, 30))
    (tmp_path / (page or "index.html")).write_text("<html>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with another_server(handler) as url:
        done = command(tmp_path / "one.png", "-o", tmp_path / "large.png", "--server", url)

    assert done.returncode == 1
    assert done.stderr.startswith(f"gdsr-upscale: {url}: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


CUT_JPEG = saved(photo(64, 64), "JPEG", quality=90)[:-700]
FILLED = "filled what is missing: the picture ends too early"


def test_through_every_door_a_picture_that_is_cut_off_is_refused_or_filled(
    shared: Site, url: str, tmp_path: Path
) -> None:
    http, wait = shared.http, {"Prefer": "wait=60"}
    text = base64.b64encode(CUT_JPEG).decode()
    file, fill = {"image": ("cut.jpg", CUT_JPEG)}, {"truncated": "fill"}
    refused = http.post("/upscale", content=CUT_JPEG, headers=wait)
    answers = [
        http.post("/upscale", content=CUT_JPEG, params=fill, headers=wait),
        http.post("/upscale", files=file, data=fill, headers=wait),
        http.post("/upscale", json={"image": text, **fill}, headers=wait),
    ]
    made = [answer.headers["Content-Location"].split("/")[2] for answer in answers]
    batch = http.post("/batches", content=zipped({"a.jpg": CUT_JPEG}), params=fill).json()
    while batch["state"] not in ("finished", "failed"):
        batch = http.get(batch["links"]["self"]).json()
        for item in batch["items"]:
            http.get(item["links"]["result"], headers=wait)
    made.append(batch["items"][0]["links"]["result"].split("/")[2])
    with Client(url) as client:
        job = client.upscale(CUT_JPEG, tmp_path / "out.png", truncated="fill")
        with pytest.raises(JobLost, match="with truncated=fill"):
            client.upscale(CUT_JPEG, tmp_path / "none.png")

    assert refused.status_code == 422
    assert "truncated=fill" in refused.json()["detail"]
    for name in (*made, job.id):
        assert http.get(f"/jobs/{name}").json()["result"]["warnings"] == [FILLED]
    assert size(tmp_path / "out.png") == (256, 256)
