"""Mutated uploads over HTTP end in a picture or a client error, in time and without a crash.

The service, the workers and the tiny network are real. The same number makes the same upload:
`FUZZ_FIRST=4711` starts with that one.
"""

import base64
import json
import os
import random
import socket
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import tifffile
from archives import zipped
from hosts import Site as Workers
from hosts import WorkerHost
from mutations import damaged, damaged_form, seeds
from networks import tiny_checkpoint
from PIL import Image
from processes import running_valkey
from serving import Site, served

from service.settings import ServiceSettings

pytestmark = pytest.mark.e2e

_FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
_CLIENTS = 4
_OPTIONS: dict[str, tuple[str, ...]] = {
    "format": ("png", "JPG", "webp", "avif", "tiff", "jxl", "same"),
    "trade_off": ("0", "0.5", "psnr", "0.3", "1"),
    "quality": ("1", "50", "100"),
    "scale": ("1", "1.5", "4"),
    "width": ("1", "10", "92"),
    "height": ("1", "92"),
    "alpha": ("model", "lanczos"),
    "background": ("#ffffff", "#123456"),
    "metadata": ("keep", "strip"),
    "icc": ("keep", "srgb"),
    "depth": ("8", "16", "same"),
    "lossless": ("true", "false"),
    "truncated": ("fill", "refuse"),
    "consistency": ("true", "false"),
    "keep_branches": ("true", "false"),
    "name": ("a.png", "../\u202e.", "\u732b" * 80, "\U0001f600", "%00"),
    "model": ("tiny", ""),
}
_WRONG = ("", "nan", "-1", "9" * 30, "1e400", "\0", "None", "x" * 300, "\u202e")
_TYPES = (
    "image/png", "image/*", "application/octet-stream", "text/plain", "", "application/json",
    "multipart/form-data", "application/x-www-form-urlencoded", "application/zip", "\xff/\xfe",
)  # fmt: skip


class Upload(NamedTuple):
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    content: bytes


def upload(number: int) -> Upload:
    """Return a damaged picture with random options, in one of the ways to upload."""
    dice = random.Random(number)
    picture, frame = damaged(number)
    if dice.random() < 0.1:
        picture = dice.choice(seeds())
    params = {
        name: dice.choice(values) for name, values in _OPTIONS.items() if dice.random() < 0.08
    }
    if dice.random() < 0.05:
        params[dice.choice(list(_OPTIONS))] = dice.choice(_WRONG)
    if frame is not None:
        params["frame"] = str(frame)
    headers = {"Accept": dice.choice(("*/*", "image/webp", "image/avif,*;q=0.1", ";;q=x", ""))}
    way = dice.choices(("body", "form", "json", "zip"), (50, 30, 15, 5))[0]
    if way == "form":
        content, headers["Content-Type"] = damaged_form(picture, dice)
        return Upload("/upscale", params, headers, content)
    if way == "json":
        headers["Content-Type"] = "application/json"
        return Upload("/upscale", params, headers, _json(picture, dice))
    if way == "zip":
        others = [damaged(dice.randrange(10**6))[0] for _ in range(dice.randrange(3))]
        content = zipped({f"{n}.png": data for n, data in enumerate([picture, *others])})
        headers["Content-Type"] = "application/zip"
        return Upload("/batches", params, headers, _flipped(content, dice))
    if dice.random() < 0.5:
        headers["Content-Type"] = dice.choice(_TYPES)
    if dice.random() < 0.02:
        headers["Content-Digest"] = dice.choice(("sha-256=:x:", "sha-256", "md5=:AA==:"))
    return Upload("/upscale", params, headers, picture)


def _json(picture: bytes, dice: random.Random) -> bytes:
    text = base64.b64encode(picture).decode()
    images: tuple[Any, ...] = (text, "data:image/png;base64," + text, text[:-1], None, [text])
    positions: tuple[Any, ...] = (0.5, "1", None, True, {}, 1e400)
    body = {
        "image": dice.choices(images, (40, 40, 10, 5, 5))[0],
        "trade_off": dice.choices(positions, (40, 30, 10, 5, 5, 5))[0],
    }
    return _flipped(json.dumps(body).encode(), dice)


def _flipped(data: bytes, dice: random.Random) -> bytes:
    """Flip a few bits, in some of the cases."""
    changed = bytearray(data)
    for _ in range(dice.choice((0, 0, 0, 1, 8))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def answer(client: httpx2.Client, number: int) -> str:
    """Send an upload, check everything that results, and name the outcome in a word."""
    made = upload(number)
    headers = {**made.headers, "Prefer": "wait=60"}
    response = client.post(
        made.path,
        params=made.params,
        headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        content=made.content,
    )
    if made.path == "/batches" and response.status_code == 202:
        return _batch(client, number, response.json())
    response = _ended(client, response)
    assert response.status_code < 500, (number, response.text)
    if response.status_code != 200:
        return str(response.json()["type"]).rpartition("/")[2]
    _check_picture(number, response)
    if made.params.get("keep_branches") == "true":
        _ask_for_parts(client, number, response.headers["Content-Location"])
    return "picture"


def _ended(client: httpx2.Client, response: httpx2.Response) -> httpx2.Response:
    """Poll until the job has ended, since a busy machine may take longer than one request waits. A
    job that hangs runs into its own timeout, which counts as a failure of the service.
    """
    if response.status_code == 202:
        result = response.json()["links"]["result"]
        while response.status_code in (202, 409):
            response = client.get(result, headers={"Prefer": "wait=60"})
    return response


def _check_picture(number: int, response: httpx2.Response) -> None:
    kind = response.headers["Content-Type"]
    if kind == "image/tiff":  # Pillow cannot read 16-bit grey with alpha
        tifffile.imread(BytesIO(response.content))
        return
    with Image.open(BytesIO(response.content)) as opened:
        opened.load()
        assert Image.MIME[opened.format or ""] == kind, number


def _ask_for_parts(client: httpx2.Client, number: int, address: str) -> None:
    dice = random.Random(number)
    for _ in range(3):
        params = {
            "trade_off": dice.choice(("0", "0.7", "gan")),
            "region": f"{dice.randrange(99)},{dice.randrange(99)},{dice.randrange(9)},3",
            "format": dice.choice(("png", "webp", "jpeg")),
        }
        response = client.get(address, params=params, headers={"Prefer": "wait=60"})
        response = _ended(client, response)
        assert response.status_code < 500, (number, params, response.text)


def _batch(client: httpx2.Client, number: int, view: dict[str, Any]) -> str:
    while view["state"] not in ("finished", "failed"):
        view = client.get(view["links"]["self"]).json()
        for item in view["items"]:
            if item["state"] in ("queued", "running"):
                client.get(item["links"]["result"], headers={"Prefer": "wait=60"})
    failures = [item["failure"] for item in view["items"]] + [view["failure"]]
    assert all(failure is None or failure["status"] < 500 for failure in failures), (number, view)
    if view["state"] == "failed":
        return "batch failed"
    while (
        response := client.get(view["links"]["result"], headers={"Prefer": "wait=60"})
    ).status_code == 202:
        pass
    assert response.status_code == 200, (number, response.text)
    with zipfile.ZipFile(BytesIO(response.content)) as archive:
        assert archive.testzip() is None
    return "batch"


def broken_off(site: Site, number: int) -> None:
    """Send the first part of an upload, possibly with flipped bits, and disconnect."""
    dice = random.Random(number)
    picture, _ = damaged(number)
    head = (
        f"POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(picture) + 9}\r\n\r\n"
    )
    data = _flipped(head.encode(), dice) + picture
    address = (site.http.base_url.host, site.http.base_url.port)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(data[: dice.randrange(len(data))])


@contextmanager
def running(folder: Path) -> Iterator[tuple[Site, WorkerHost]]:
    checkpoint = tiny_checkpoint(folder / "tiny.safetensors")
    with running_valkey(folder / "valkey") as valkey:
        workers = Workers(valkey.url, folder / "blobs", checkpoint)
        settings = ServiceSettings(redis_url=valkey.url, blob_dir=folder / "blobs")
        with workers.worker_host() as host, served(settings) as site:
            yield site, host


def check_all(folder: Path, uploads: int) -> str:
    """Send so many uploads and return a summary."""
    with running(folder) as (site, host):
        before = {host.engine, *host.job_workers}
        failures: list[str] = []

        def send(number: int) -> str:
            if number % 50 == 49:
                broken_off(site, number)
                return "broken off"
            try:
                return answer(site.http, number)
            except Exception as failure:  # noqa: BLE001 - all failures are reported
                failures.append(f"{number}: {failure!r}")
                return "failed"

        with ThreadPoolExecutor(_CLIENTS) as pool:
            answers = Counter(pool.map(send, range(_FIRST, _FIRST + uploads)))
        assert failures == []
        assert site.http.get("/livez").status_code == 200
        assert {host.engine, *host.job_workers} == before
        log = host.stop()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [line["message"] for line in lines if line["level"] in ("error", "critical")] == []
    assert "Traceback" not in log
    assert "Fatal Python error" not in log
    assert answers["picture"] > uploads / 10, answers
    return f"{uploads:,} mutated uploads over HTTP, no crash, hang or 5xx: {dict(answers)}"


@pytest.mark.slow
def test_a_few_hundred_mutated_uploads_end_in_an_answer(tmp_path: Path) -> None:
    check_all(tmp_path, 200)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_ten_thousand_mutated_uploads_end_in_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = check_all(tmp_path, 10_000)
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\n")
