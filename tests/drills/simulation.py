"""The life of jobs, played out: the real scripts on a real Valkey, in an order that a seed decides.

Workers take ids, claim, beat, freeze, die and come back; replies get lost; leases end; owners
cancel and erase. After each step whatever was accepted can still end, and has ended at most once.

    export PYTHONPATH=.:tests/support:tests/servers
    .venv/bin/python tests/drills/simulation.py --schedules 100000
"""

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from processes import ValkeyServer, running_valkey
from records import image_info, model_info, options

from workers.contract.errors import QueueUnavailable, WorkerLost
from workers.contract.images.formats import ResultFormat
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.idempotency import IdempotencyKey
from workers.contract.queue.jobs import FINAL_STATES, JobResult, JobState
from workers.contract.queue.queue import JobQueue
from workers.contract.queue.records import COUNTERS, JobRecords
from workers.contract.queue.runs import (
    LARGE,
    LEASES,
    RUNNING,
    SMALL,
    WAITING,
    next_task,
    renew_lease,
    requeue,
)
from workers.jobs.recovery import sweep

HOUR = timedelta(hours=1)
RESULT = JobResult(
    key="results/a.png", size=1, sha256="0", format=ResultFormat.PNG, width=4, height=4,
    model="lite", checkpoint="0", device="CPU", precision="float32", seconds={},
    expires_at=datetime.now(UTC) + HOUR,
)  # fmt: skip
STEPS = 40


class Forgetful(redis.Redis):
    """A client that executes each script, and loses some of the replies."""

    luck: random.Random
    share = 0.0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = super().execute_command(*args, **options)
        if args[0] == "EVAL" and self.luck.random() < self.share:
            raise redis.ConnectionError("the reply was lost")
        return reply


@dataclass(slots=True)
class Worker:
    """A worker for the queues of its class; a `frozen` one may later go on as if never stopped."""

    served: str
    task: str = ""
    run: str = ""
    claimed: bool = False
    frozen: bool = False


class World:
    """The workers, the jobs and the queue of one schedule."""

    def __init__(self, client: Forgetful, luck: random.Random) -> None:
        self.client, self.luck = client, luck
        bounds = QueueLimits(jobs=1000, pixels=10**9)
        self.queue = JobQueue(client, record_ttl=HOUR, bounds=bounds, small_pixels=100 * 100)
        self.records: JobRecords = self.queue.records
        self.workers = [Worker(served) for served in (SMALL, LARGE, LARGE)]
        self.accepted: set[str] = set()
        self.erased: set[str] = set()
        self.ends: Counter[str] = Counter()
        self.seen = 0

    def step(self) -> None:
        """Do one random step."""
        happening = self.luck.choice(
            [self.submit, self.submit, self.take, self.take, self.take, self.claim, self.claim,
             self.claim, self.renew_lease, self.end, self.end, self.crash, self.die, self.freeze,
             self.lease_ends, self.sweep, self.sweep, self.cancel, self.erase]
        )  # fmt: skip
        # If the reply of the retry is lost too, the outcome is unknown until a later step.
        with suppress(redis.ConnectionError, QueueUnavailable):
            happening()

    def submit(self) -> None:
        job_id, side = f"{self.luck.getrandbits(128):032x}", self.luck.choice([50, 200])
        claim = None
        if self.luck.random() < 0.5:
            claim = IdempotencyKey(owner="", key=job_id, fingerprint="f", job_id=job_id)
        image = image_info(width=side, height=side)
        try:
            self.queue.submit(job_id, image, options(), model_info(), idempotency=claim)
        finally:
            if self.client.exists(f"gdsr:job:{job_id}"):
                self.accepted.add(job_id)

    def someone(self) -> Worker:
        return self.luck.choice(
            [worker for worker in self.workers if not worker.frozen] or self.workers
        )

    def take(self) -> None:
        worker = self.someone()
        if not worker.task:
            task = next_task(self.client, worker.served, seconds=None)
            if task is not None:
                worker.task, worker.run = task, f"{self.luck.getrandbits(64):x}"

    def claim(self) -> None:
        worker = self.someone()
        if worker.task and not worker.claimed:
            if self.records.start(worker.task, run=worker.run, worker="w"):
                worker.claimed = True
            else:
                self.leave(worker)

    def renew_lease(self) -> None:
        worker = self.someone()
        if worker.task and not renew_lease(self.client, worker.task, run=worker.run):
            self.leave(worker)

    def end(self) -> None:
        worker = self.someone()
        if not worker.claimed:
            return
        task, run = worker.task, worker.run
        if self.luck.random() < 0.8:
            ended = self.records.succeed(task, run=run, result=RESULT)
        else:
            ended = self.records.fail(task, run=run, error=WorkerLost())
        self.ends[task] += ended
        self.leave(worker)

    def crash(self) -> None:
        worker = self.someone()
        if worker.claimed:
            why = self.luck.choice(["crashed", "lost", "leaves"])
            verdict = requeue(self.client, worker.task, run=worker.run, why=why)
            if verdict in ("lost", "crashed"):
                failed = self.records.fail(worker.task, run=worker.run, error=WorkerLost())
                self.ends[worker.task] += failed
            self.leave(worker)

    def die(self) -> None:
        """Lose a worker and its state."""
        self.leave(self.someone())

    def freeze(self) -> None:
        worker = self.luck.choice(self.workers)
        worker.frozen = not worker.frozen

    def lease_ends(self) -> None:
        for task in sorted(self.client.zrange(LEASES, 0, -1)):  # at random, not by the clock
            if self.luck.random() < 0.5:
                self.client.zadd(LEASES, {task: 1})

    def sweep(self) -> None:
        def heard(job: Any, error: Exception) -> None:  # noqa: ARG001
            self.ends[job.id] += 1

        sweep(self.records, heard)

    def some_job(self) -> str | None:
        jobs = sorted(self.accepted - self.erased)
        return self.luck.choice(jobs) if jobs else None

    def cancel(self) -> None:
        if (job_id := self.some_job()) is not None and self.luck.random() < 0.3:
            self.ends[job_id] += self.records.cancel(job_id)
            self.queue.withdraw(job_id)

    def erase(self) -> None:
        job_id = self.some_job()
        if job_id is not None and self.queue.get(job_id).ended and self.luck.random() < 0.3:
            self.records.erase(job_id)
            self.erased.add(job_id)

    def leave(self, worker: Worker) -> None:
        worker.task, worker.run, worker.claimed = "", "", False

    def check(self) -> None:
        """Check that each accepted job can still end, and has ended at most once."""
        jobs = self.records.get_many(sorted(self.accepted - self.erased))
        with self.client.pipeline() as pipe:
            pipe.hkeys(WAITING).hkeys(RUNNING).zrange(LEASES, 0, -1).hvals(COUNTERS)
            *tasks, counted = pipe.execute()
        waiting, running, leased = ({name.decode() for name in names} for names in tasks)
        ended = 0
        for job_id, job in jobs.items():
            assert job is not None, f"{job_id} is gone"
            ended += job.ended
            assert (job_id in waiting) == (job.state is JobState.QUEUED), job.state
            assert (job_id in running) == (job.state is JobState.RUNNING), job.state
            assert job.state is not JobState.RUNNING or job_id in leased, "nobody would miss it"
            assert self.ends[job_id] <= 1, "it ended twice"
        assert sum(map(int, counted)) == ended + len(self.erased)

    def calm(self) -> dict[str, str]:
        """Let all workers die and new ones end every job; return how each job has ended."""
        self.client.share = 0.0
        for worker in self.workers:
            self.leave(worker)
            worker.frozen = False
        for _ in range(100):
            for task in self.client.zrange(LEASES, 0, -1):
                self.client.zadd(LEASES, {task: 1})
            self.sweep()
            for _ in range(4 * len(self.workers)):
                self.take()
                self.claim()
                self.end()
            if not self.records.active():
                break
        self.check()
        jobs = self.records.get_many(sorted(self.accepted - self.erased))
        unended = [job.id for job in jobs.values() if job is None or job.state not in FINAL_STATES]
        assert unended == []
        assert self.client.exists(WAITING, RUNNING) == 0
        return dict.fromkeys(self.erased, "erased") | {
            job_id: job.state.value for job_id, job in jobs.items() if job is not None
        }


def play(server: ValkeyServer, seed: int, *, restart: bool = False) -> dict[str, str]:
    """Play the schedule of a seed and return how each of its jobs ended."""
    luck = random.Random(seed)
    with Forgetful.from_url(server.url, retry=None, socket_timeout=600) as client:
        client.luck, client.share = luck, 0.0
        client.flushall()
        client.share = luck.choice([0.0, 0.1, 0.4])
        world = World(client, luck)
        middle = luck.randrange(STEPS)
        for step in range(STEPS):
            if restart and step == middle:
                server.kill()
                server.start()
            world.step()
            world.check()
        return world.calm()


def main() -> None:
    """Play the schedules and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first; each has its own")
    chosen = parser.parse_args()
    logging.disable()  # failed jobs are expected
    began, jobs = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, running_valkey(Path(folder)) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendfsync", "no")
        for seed in range(chosen.seed, chosen.seed + chosen.schedules):
            try:
                jobs += len(play(server, seed, restart=seed % 1000 == 999))
            except BaseException:
                sys.stderr.write(f"seed {seed}\n")
                raise
            if seed % 1000 == 999:
                sys.stderr.write(f"{seed + 1 - chosen.seed:,} schedules, {jobs:,} jobs\n")
    sys.stdout.write(
        f"{chosen.schedules:,} schedules of {STEPS} steps, {jobs:,} jobs, none lost, none ended "
        f"twice; {time.monotonic() - began:.0f} s\n"
    )


if __name__ == "__main__":
    main()
