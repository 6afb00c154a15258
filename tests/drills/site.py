"""A `gdsr-up` site to break, and clients whose pictures carry numbers that identify them."""

import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import numpy as np
from lossy import LossyProxy, lossy
from PIL import Image
from processes import ValkeyServer, command_line, descendants, free_port, running_valkey, wait_for

from workers.host.parent_death import dying_with_parent

#: Seconds until a client stops asking.
PATIENCE = 300.0
#: Pictures in a batch.
BATCH = 8


def barcode(number: int) -> bytes:
    """Return a PNG of 64 x 64 pixels that encodes the number and its checksum."""
    word = number << 24 | zlib.crc32(number.to_bytes(5, "big")) & 0xFFFFFF
    bits = np.array([word >> (63 - bit) & 1 for bit in range(64)]).reshape(8, 8)
    grey = np.kron(60 + 135 * bits, np.ones((8, 8)))
    noise = np.random.default_rng(number).integers(-12, 13, (64, 64, 3))
    file = io.BytesIO()
    Image.fromarray((grey[..., None] + noise).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def read(picture: bytes) -> int | None:
    """Return the number that a result encodes; None if the checksum is wrong."""
    with Image.open(io.BytesIO(picture)) as opened:
        grey = np.asarray(opened.convert("L"), dtype=np.float32)
    side = grey.shape[0] // 8
    blocks = grey.reshape(8, side, 8, side)[:, side // 4 : -side // 4, :, side // 4 : -side // 4]
    word = 0
    for bit in (blocks.mean(axis=(1, 3)) > 127).ravel():
        word = word << 1 | int(bit)
    number = word >> 24
    return number if word & 0xFFFFFF == zlib.crc32(number.to_bytes(5, "big")) & 0xFFFFFF else None


class DrillSite:
    """A running site, its Valkey and the lossy proxy between them."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Path,
        server: ValkeyServer,
        proxy: LossyProxy,
        *,
        direct: bool = False,
        within: Sequence[str] = (),
        changes: Mapping[str, str | None] | None = None,
    ) -> None:
        self.server, self.proxy, self.data = server, proxy, folder / "data"
        self.headers: dict[str, str] = {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {name: v for name, v in os.environ.items() if not name.startswith("GDSR_")}
        environment |= {
            "GDSR_REDIS_URL": server.url if direct else proxy.url,
            "GDSR_CHECKPOINTS": str(checkpoint), "GDSR_THREADS": "1",
            "GDSR_PRECISION": "float32", "GDSR_DEVICES": "cpu", "GDSR_CACHE_RESULTS": "false",
            "GDSR_JOB_WORKERS": "2", "GDSR_TILE": "64", "GDSR_RESULT_TTL": "86400",
            **(changes or {}),
        }  # fmt: skip
        self.environment = {name: v for name, v in environment.items() if v is not None}
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "deploy.local", "--port", str(self.port),
             "--data", str(self.data)],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509
        )  # fmt: skip
        self.fates: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.ids: dict[int, str] = {}

    def ready(self) -> bool:
        assert self.process.poll() is None, "gdsr-up ended"
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx2.HTTPError:
            return False

    def wait_ready(self, *, seconds: float = 300) -> float:
        """Wait until the site is ready; return the seconds that took."""
        began = time.monotonic()
        wait_for(self.ready, seconds=seconds, what="a site that is ready")
        return time.monotonic() - began

    def inside(self, path: Path) -> Path:
        """Return the path as the site's processes see it: they may have a disk mounted there."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def said(self) -> str:
        """Return the site's log so far."""
        return Path(self.log.name).read_text(errors="replace")

    def tracebacks(self) -> list[str]:
        """Return the start of each traceback in the log, with the line before it."""
        return re.findall(r"(?:.*\n)?Traceback(?:.*\n){0,60}", self.said())

    def pids(self, what: str) -> list[int]:
        """Pids of `service`, `workers.engine` or `workers.jobs.job_worker`."""
        found = descendants(self.process.pid)
        return [pid for pid in found if f"-m {what}" in command_line(pid)]

    @contextmanager
    def driven(self, jobs: int, *, a_second: float = 2.0, batches: bool = False) -> Iterator[None]:
        """Run clients that send and fetch that many pictures or batches while the block runs."""
        fate = self._batch_fate if batches else self._fate
        with ThreadPoolExecutor(32) as pool:
            stop = threading.Event()

            def drive() -> None:
                for number in range(jobs):
                    pool.submit(self._one, fate, number)
                    stop.wait(1 / a_second)

            driver = threading.Thread(target=drive)
            driver.start()
            try:
                yield
            finally:
                driver.join()
        assert sum(self.fates.values()) == jobs

    def _one(self, fate: Callable[[int], str], number: int) -> None:
        try:
            outcome = fate(number)
        except Exception as failure:  # noqa: BLE001 - reported at the end
            outcome = f"client: {failure!r}"
        with self._lock:
            self.fates[outcome] += 1

    def _fate(self, number: int) -> str:
        deadline = time.monotonic() + PATIENCE
        headers = {
            **self.headers, "Idempotency-Key": f"drill-{number}", "Prefer": "wait=5",
        }  # fmt: skip
        with httpx2.Client(base_url=self.url, timeout=100, trust_env=False) as http:
            while time.monotonic() < deadline:
                try:
                    sent = http.post(
                        "/upscale?trade_off=0", content=barcode(number), headers=headers
                    )
                    if sent.status_code == 200:
                        place = sent.headers["Content-Location"]
                        self.ids[number] = place.split("/")[2]
                        return "right" if read(sent.content) == number else "wrong"
                    if sent.status_code < 500 and sent.status_code != 202:
                        return f"refused: {sent.json()['type']}"
                    if sent.status_code == 500:
                        return f"failed: {sent.json()['type']}"
                except httpx2.TransportError:
                    if self.process.poll() is not None:
                        return "gdsr-up ended"
                time.sleep(random.uniform(0.2, 1.0))
        return "stuck"

    def _batch_fate(self, number: int) -> str:
        """Send a zip of `BATCH` pictures and return its outcome."""
        deadline, file = time.monotonic() + PATIENCE, io.BytesIO()
        numbers = {f"{one}.png": one for one in range(BATCH * number, BATCH * (number + 1))}
        with zipfile.ZipFile(file, "w") as archive:
            for name, one in numbers.items():
                archive.writestr(zipfile.ZipInfo(name), barcode(one))
        headers, place = {"Idempotency-Key": f"batch-{number}", "Prefer": "wait=5"}, ""
        with httpx2.Client(base_url=self.url, timeout=100, trust_env=False) as http:
            while time.monotonic() < deadline:
                with suppress(httpx2.TransportError):
                    if place:
                        got = http.get(f"{place}/result", headers=headers)
                    else:
                        got = http.post(
                            "/batches?trade_off=0", content=file.getvalue(), headers=headers
                        )
                    if got.status_code == 200:
                        with zipfile.ZipFile(io.BytesIO(got.content)) as results:
                            found = {name: read(results.read(name)) for name in results.namelist()}
                        return "right" if found == numbers else "wrong"
                    if got.status_code == 202:
                        place = place or f"/batches/{got.json()['id']}"
                    elif got.status_code not in (409, 429, 503):
                        return f"refused: {got.json()['type']}"
                time.sleep(random.uniform(0.2, 1.0))
        return "stuck"

    def check_results(self) -> None:
        """Check that each result still exists and belongs to its picture."""
        with httpx2.Client(base_url=self.url, timeout=100, trust_env=False) as http:
            for number, job_id in self.ids.items():
                result = http.get(f"/jobs/{job_id}/result")
                assert result.status_code == 200, f"{job_id} is missing: {result.text}"
                assert read(result.content) == number

    def listed(self) -> int:
        """Number of jobs in the listing."""
        count, path = 0, "/jobs?limit=100"
        with httpx2.Client(base_url=self.url, timeout=100, trust_env=False) as http:
            while path:
                page = http.get(path).json()
                count += len(page["jobs"])
                path = page["next"]
        return count


def disk_of(place: Path, size: str) -> tuple[str, ...]:
    """Return the command prefix that mounts a small disk at that place for a site."""
    place.mkdir(parents=True, exist_ok=True)
    mount = f'mount -t tmpfs -o size={size} tmpfs {place} && exec "$@"'
    return ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh")


@contextmanager
def drill_site(
    folder: Path,
    checkpoint: Path,
    *,
    direct: bool = False,
    within: Sequence[str] = (),
    **changes: str | None,
) -> Iterator[DrillSite]:
    """Run a site until it is ready; `direct` leaves out the proxy, which is slow."""
    with running_valkey(folder / "valkey") as server, lossy(server.url) as proxy:
        site = DrillSite(
            folder, checkpoint, server, proxy, direct=direct, within=within, changes=changes
        )
        try:
            site.wait_ready()
            # Each job worker has a waiting child; the janitor creates its folders last.
            count = 2 * int(site.environment["GDSR_JOB_WORKERS"])
            wait_for(lambda: len(site.pids("workers.jobs.job_worker")) == count, what="job workers")
            wait_for(lambda: site.pids("workers.jobs.janitor"), what="a janitor")
            yield site
            site.process.send_signal(signal.SIGTERM)
            assert site.process.wait(timeout=300) == 0
        finally:
            below = descendants(site.process.pid)
            site.process.kill()
            site.process.wait()
            site.log.close()
            wait_for(lambda: not any(map(command_line, below)), what="no orphans")
