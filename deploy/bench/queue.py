"""Cost of a job in Redis, in bytes and commands, and of a blob for the janitor.

Uses its own Valkey, configured as by `gdsr-up`; the disk is that of the temporary folder.
"""

import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis

from deploy.bench.fleet import running_valkey
from deploy.bench.timing import show
from workers.contract.blobs.file import FileBlobStore
from workers.contract.images.formats import ImageFormat, ResultFormat
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.connection import connect
from workers.contract.queue.engines import ModelInfo
from workers.contract.queue.jobs import ImageInfo, JobResult, UpscaleOptions
from workers.contract.queue.queue import JobQueue, new_job_id
from workers.jobs.janitor import Sweep

_DIGEST = "0" * 64
#: Progress writes per running job; about one second's worth.
_PROGRESS = 5


def bench_queue(*, jobs: int) -> dict[str, float]:
    """Bytes of a queued and of an ended job, commands, and rates per second.

    Raises:
        RuntimeError: Valkey did not start.
    """
    with tempfile.TemporaryDirectory(prefix="gdsr-") as folder, running_valkey(Path(folder)):
        url = f"unix://{folder}/valkey.sock"
        client = connect(url, timeout=timedelta(seconds=10), retries=0)
        figures = _measure(client, FileBlobStore(Path(folder) / "blobs"), jobs)
    show(figures)
    return figures


def _measure(client: redis.Redis, blobs: FileBlobStore, jobs: int) -> dict[str, float]:
    queue = JobQueue(
        client,
        record_ttl=timedelta(days=1),
        bounds=QueueLimits(jobs=2 * jobs, pixels=10**15),
        small_pixels=512 * 512,
    )
    _submit(queue, 10)  # warm-up: loads scripts, chooses encodings
    before, commands = _used(client), _commands(client)
    start = time.perf_counter()
    ids = _submit(queue, jobs)
    submitting = time.perf_counter() - start
    waiting = _used(client)
    submitted = _commands(client)
    for job_id in ids:
        _finish(queue, job_id)
    ended = _commands(client)
    for name in client.keys("rq:queue:*"):
        client.delete(name)
    kept = _used(client)
    for job_id in ids:
        blobs.write(f"results/{job_id}.run.png", [b"x"])
    start = time.perf_counter()
    Sweep(records=queue.records, blobs=blobs).sweep(result_ttl=timedelta(hours=1), quota=None)
    sweeping = time.perf_counter() - start
    return {
        "bytes of a queued job": (waiting - before) / jobs,
        "bytes of an ended job": (kept - before) / jobs,
        "Redis commands to submit a job": (submitted - commands) / jobs,
        "Redis commands of ours to run one": (ended - submitted) / jobs,
        "jobs submitted a second, one at a time": jobs / submitting,
        "blobs checked by the janitor a second": jobs / sweeping,
    }


def _submit(queue: JobQueue, jobs: int) -> list[str]:
    model = ModelInfo(
        name="lite", sha256=_DIGEST, preset="lite", scale=4, card={}, precision="bfloat16",
        pixels_per_second={"psnr": 1e5, "fused": 5e4, "gan": 7e4},
    )  # fmt: skip
    options = UpscaleOptions(trade_off=0.5, model="lite", format=ResultFormat.PNG, quality=90)
    ids = [new_job_id() for _ in range(jobs)]
    for job_id in ids:
        image = ImageInfo(
            key=f"inputs/{job_id}", size=40_000, sha256=_DIGEST, format=ImageFormat.JPEG,
            width=512, height=512,
        )  # fmt: skip
        queue.submit(job_id, image, options, model, name="a photograph.jpg", owner="somebody")
    return ids


def _finish(queue: JobQueue, job_id: str) -> None:
    records, run = queue.records, "r" * 32
    records.start(job_id, run=run, worker="host-12345-0123abcd")
    for done in range(_PROGRESS):
        records.progress(job_id, run=run, tiles_done=done, tiles=_PROGRESS)
    result = JobResult(
        key=f"results/{job_id}.{run}.png", size=5_000_000, sha256=_DIGEST,
        format=ResultFormat.PNG, width=2048, height=2048, model="lite", checkpoint=_DIGEST,
        device="cuda:0", precision="float16",
        seconds=dict.fromkeys(("queue", "decode", "infer", "encode"), 0.1234),
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip
    records.succeed(job_id, run=run, result=result)


def _used(client: redis.Redis) -> float:
    return float(client.info("memory")["used_memory_dataset"])


def _commands(client: redis.Redis) -> float:
    return float(client.info("stats")["total_commands_processed"])
