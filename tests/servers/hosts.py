"""A real worker host, `gdsr-worker`, and a queue client that gives it jobs without HTTP."""

import hashlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from processes import children, command_line, descendants, suspended, wait_for

from workers.contract.blobs.open import open_blobs
from workers.contract.images.formats import ImageFormat, ResultFormat
from workers.contract.queue import engines
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.connection import connect
from workers.contract.queue.jobs import ImageInfo, Job, JobState, UpscaleOptions
from workers.contract.queue.queue import JobQueue, new_job_id
from workers.contract.queue.runs import WORKERS
from workers.contract.settings import SharedSettings
from workers.host.parent_death import dying_with_parent

#: Job workers of a host: one for small pictures, one for all.
JOB_WORKERS = 2


class WorkerHost:
    """A `gdsr-worker` process and its descendants."""

    def __init__(self, environment: dict[str, str], *, within: Sequence[str] = ()) -> None:
        # A pipe that nobody reads would fill up and block the writers.
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `worker_host`
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "workers"],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stderr=self.log,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509
        )

    @property
    def engine(self) -> int:
        """Pid of the engine."""
        return next(p for p in children(self.process.pid) if "workers.engine" in command_line(p))

    @property
    def job_workers(self) -> list[int]:
        """Pids of the job workers."""
        return [
            p for p in children(self.process.pid) if "workers.jobs.job_worker" in command_line(p)
        ]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Suspend the job workers, so that jobs queued in the block start together."""
        with suspended(*self.job_workers):
            yield

    @contextmanager
    def engine_held(self) -> Iterator[None]:
        """Suspend the engine, so that jobs start and do not end.

        For seconds: after 30 s the host replaces the engine.
        """
        with suspended(self.engine):
            yield

    def stop(self) -> str:
        """Stop the host as an operator would; return its log."""
        self.process.terminate()
        self.process.wait(timeout=100)
        self.log.seek(0)
        return self.log.read().decode()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Site:
    """A Redis, a blob store and the service's side of the queue."""

    def __init__(
        self, url: str, blob_dir: Path, checkpoints: Path, *, blob_url: str | None = None
    ) -> None:
        self.url, self.checkpoints = url, checkpoints
        self.client = connect(url, timeout=timedelta(seconds=60), retries=0)
        self.blob_dir, self.blob_url = blob_dir, blob_url
        self.blobs = open_blobs(
            SharedSettings(blob_dir=blob_dir, blob_url=blob_url), patience=timedelta(seconds=10)
        )
        self.queue = JobQueue(
            self.client,
            record_ttl=timedelta(hours=1),
            bounds=QueueLimits(jobs=100, pixels=10**9),
            small_pixels=256 * 256,
        )

    def environment(self, **settings: str) -> dict[str, str]:
        return {
            "GDSR_REDIS_URL": self.url,
            "GDSR_BLOB_DIR": str(self.blob_dir),
            **({"GDSR_BLOB_URL": self.blob_url} if self.blob_url else {}),
            "GDSR_CHECKPOINTS": str(self.checkpoints),
            "GDSR_SMALL_PIXELS": str(256 * 256),
            "GDSR_TILE": "64",
            "GDSR_PRECISION": "float32",
            "GDSR_THREADS": "1",
            "GDSR_DEVICES": "cpu",
            "GDSR_JOB_WORKERS": str(JOB_WORKERS),  # regardless of the number of cores
            **{f"GDSR_{name.upper()}": value for name, value in settings.items()},
        }

    @contextmanager
    def worker_host(self, *within: str, **settings: str) -> Iterator[WorkerHost]:
        """Run a worker host that is ready for jobs; end it and all its descendants afterwards.

        `within` is a prefix of its command.
        """
        before = {engine.id for engine in engines.running(self.client)}
        host = WorkerHost(self.environment(**settings), within=within)
        try:
            wait_for(lambda: self._waits(host, before), what="a host that waits for jobs")
            yield host
        finally:
            everything = descendants(host.process.pid)
            if host.process.poll() is None:
                host.kill()
            host.log.close()
            wait_for(lambda: not any(map(command_line, everything)), what="no orphans")

    def _waits(self, host: WorkerHost, before: set[str]) -> bool:
        """True if an engine and all job workers have registered in Redis."""
        assert host.process.poll() is None, "the host ended before it was warm"
        known = {name.rsplit(b"-", 2)[1] for name in self.client.zrange(WORKERS, 0, -1)}
        found = [pid for pid in host.job_workers if b"%d" % pid in known]
        warm = {engine.id for engine in engines.running(self.client)} - before
        return bool(warm) and len(found) == JOB_WORKERS

    def submit(
        self,
        picture: bytes,
        *,
        trade_off: float = 0.5,
        model: str = "tiny",
        keep_branches: bool = False,
        stored: bytes | None = None,
        **choices: object,
    ) -> str:
        """Queue a picture as the service does; return the job's id.

        `stored` is written to the blob store instead of the picture.
        """
        job_id = new_job_id()
        key = f"inputs/{job_id}"
        self.blobs.write(key, [picture if stored is None else stored])
        with Image.open(io.BytesIO(picture)) as opened:
            width, height = opened.size
        image = ImageInfo(
            key=key,
            size=len(picture),
            sha256=hashlib.sha256(picture).hexdigest(),
            format=ImageFormat.PNG,
            width=width,
            height=height,
        )
        options = UpscaleOptions.model_validate(
            {
                "trade_off": trade_off,
                "model": model,
                "format": ResultFormat.PNG,
                "quality": 90,
                "keep_branches": keep_branches,
                **choices,
            }
        )
        known = engines.choose_model(engines.running(self.client), model)
        self.queue.submit(job_id, image, options, known)
        return job_id

    def job(self, job_id: str) -> Job:
        return self.queue.get(job_id)

    def in_the_middle(self, job_id: str) -> Job | None:
        """Return the job if it is between its first and its last tile."""
        job = self.job(job_id)
        assert not job.ended, job.failure or "the job ended before it was seen in the middle"
        return job if 0 < job.tiles_done < job.tiles else None

    def at_work(self, job_id: str) -> tuple[int, int] | None:
        """Return the pids of the job worker that now runs the job, and of its child."""
        worker = self.worker_of(job_id)
        if worker is None or self.job(job_id).state is not JobState.RUNNING:
            return None
        return next(((worker, child) for child in children(worker)), None)

    def worker_of(self, job_id: str) -> int | None:
        """Return the pid of the job worker that has started the job, also when it has ended."""
        worker = self.job(job_id).worker
        return int(worker.split("-")[-2]) if worker else None  # a name is host-pid-random

    def ended(self, job_id: str, *, seconds: float = 240) -> Job:
        """Wait until the job has ended and return it."""

        def look() -> Job | None:
            job = self.job(job_id)
            return job if job.ended else None

        return wait_for(look, seconds=seconds, what=f"the end of job {job_id}")

    def result(self, job: Job) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
        """Return the pixels of a finished job's result."""
        assert job.state is JobState.SUCCEEDED, job.failure
        assert job.result is not None
        with Image.open(io.BytesIO(self.blobs.read(job.result.key))) as opened:
            return np.asarray(opened)


def noise(height: int, width: int, *, seed: int = 0) -> bytes:
    """Return a PNG of random pixels, so that no tile is flat."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
