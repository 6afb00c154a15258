"""The job worker: takes ids from RQ's queues, and works on each in a child of its own.

The child is forked and made ready before the job is there. The parent beats every 5 s for a lease
of 15 s; a run that is lost is noticed by whichever worker is the reaper at the time, and its job
runs once more. Neither process imports torch: the network is behind the engine's socket.
"""

import argparse
import contextlib
import faulthandler
import gc
import json
import logging
import os
import resource
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import redis
from redis.client import Pipeline
from rq import Worker
from rq.job import Job as Delivered
from rq.queue import Queue
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from rq.worker import WorkerStatus

from workers.contract.blobs.open import open_blobs
from workers.contract.errors import (
    BatchNotFound,
    ConfigurationInvalid,
    GDSRError,
    JobNotFound,
    JobTimedOut,
    JobTooNew,
)
from workers.contract.observability import logs
from workers.contract.queue.batches import BatchRecords
from workers.contract.queue.connection import connect
from workers.contract.queue.jobs import Job
from workers.contract.queue.records import JobRecords
from workers.contract.queue.rq_queue import LARGE, SERVED, SMALL, Delivery, open_queue
from workers.contract.queue.runs import LEASE, renew_lease
from workers.contract.settings import WorkerSettings
from workers.host.parent_death import dying_with_parent
from workers.host.reports import JobReport, send
from workers.host.supervisor import EXIT_CONFIGURATION
from workers.jobs.allocator import prepare_allocator
from workers.jobs.recovery import fail, run_ended, sweep
from workers.pictures.opening import load_codecs
from workers.pictures.warm_up import warm_up
from workers.tasks.blend import blend
from workers.tasks.pack import pack
from workers.tasks.unpack import unpack
from workers.tasks.upscale import CONTEXT, TaskContext, upscale

#: All that a child can be told to do.
TASKS: dict[str, Callable[[str], None]] = {
    "upscale": upscale, "blend": blend, "unpack": unpack, "pack": pack,
}  # fmt: skip
#: Seconds. A lost worker's job waits again after at most a lease, BEAT and REAP.
BEAT, REAP = 5, 5
#: How long past its own time limit a child may live before the parent kills it.
OVERTIME = 5
#: Seconds in which one beat of an idle worker, or one that goes from job to job, is enough.
STEADY = 1
#: Seconds before the next job, so that one that nobody can do yet does not go round and round.
LEAVE_PAUSE = 1
_MAX_ORDER = 4096  # bytes of what a waiting child is told
#: How long the blob store may take to answer; jobs can wait, people cannot.
BLOB_PATIENCE = timedelta(seconds=30)
#: How a child ends that could not say what became of its task.
_EXIT_UNKNOWN = 75


class _Order(NamedTuple):
    """What a child is to do."""

    task: str
    run: str
    what: str
    """One of `TASKS`."""
    name: str
    """Of the job or the batch."""
    seconds: float
    """Its time limit."""


class _Child(NamedTuple):
    """A process that is set up, and waits for its order."""

    pid: int
    orders: socket.socket


class JobWorker(Worker):
    """Takes jobs from the queues that its class serves."""

    max_connection_wait_time = 2.0  # seconds between attempts while Redis is away; RQ's is 60
    should_run_maintenance_tasks = True  # RQ's own lock outlives a killed worker by 15 minutes

    def __init__(
        self,
        queue_name: str,
        *,
        settings: WorkerSettings,
        engine_sockets: Sequence[Path],
        reports: Path | None = None,
    ) -> None:
        connection = connect(  # patient: a Redis that restarts in mid-job costs nothing but time
            settings.redis_url,
            timeout=timedelta(seconds=20),
            retries=20,
            pause=timedelta(seconds=0.5),
            until_cured=True,
        )
        super().__init__(
            [open_queue(name, connection) for name in SERVED[queue_name]],
            name=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            connection=connection,
            serializer="json",
            job_class=Delivery,
            log_job_description=False,
            worker_ttl=20,
        )
        self._settings = settings
        self._engine_sockets = engine_sockets
        self._reports = reports
        self._records = JobRecords(connection, record_ttl=settings.record_ttl)
        self._batches = BatchRecords(connection, record_ttl=settings.record_ttl)
        self._blobs = open_blobs(settings, patience=BLOB_PATIENCE)  # used in children only
        self._drain_seconds = settings.drain.total_seconds()
        self._stopping_since: float | None = None
        self._waiting: _Child | None = None
        #: What is done at this moment, and by which child.
        self._task, self._working = "", 0
        self._last_turn = self._last_beat = float("-inf")
        self._reap_after = 0.0

    # In the parent.

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Delivered, Queue] | None:
        """The next job; by then there is a child for it."""
        if self._waiting is None:
            self._waiting = self._fork()
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def execute_job(self, job: Delivered, queue: Queue) -> None:
        """Have a child work on a task, and see to it that it ends."""
        try:
            order = self._order(job.id)
        except JobTooNew:
            self.log.warning("job %s is of a newer release: left to a newer worker", job.id)
            queue.push_job_id(job.id)
            time.sleep(LEAVE_PAUSE)
        except (JobNotFound, BatchNotFound, ValueError):  # erased, or nonsense
            self.log.warning("%s is no task: dropped", job.id)
        else:
            self.set_state(WorkerStatus.BUSY)
            self._work(order)
            return
        self.connection.lrem(queue.intermediate_queue_key, 1, job.id)

    def _order(self, task: str) -> _Order:
        kind, _, name = task.rpartition("-")
        match kind:
            case "batch":
                what, limit = "unpack", self._batches.get(name).spec.time_limit
            case "zip":
                packing = self._batches.pack(name)
                if packing is None:
                    raise BatchNotFound(name)
                what, limit = "pack", packing.time_limit
            case _:
                spec = self._records.get(task).spec
                what, limit = "blend" if spec.blend_of else "upscale", spec.time_limit
        return _Order(task, secrets.token_hex(16), what, name, limit.total_seconds())

    def _work(self, order: _Order) -> None:
        self._task, self._working = order.task, self._begun(order)
        began, why = time.monotonic(), ""
        while not _ended(self._working, within=BEAT):
            self.heartbeat()
            why = why or self._reason_to_kill(order, began)
            if why:
                os.kill(self._working, signal.SIGKILL)
            else:
                self.run_maintenance_tasks()
        _, status = os.waitpid(self._working, 0)
        self._task, self._working = "", 0
        self._after(order, why, status)

    def _after(self, order: _Order, why: str, status: int) -> None:
        """See to a task whose child has ended, if that could not do it itself."""
        end: Literal["leaves", "lost", "crashed"] = "crashed"
        if why == "drain":
            end = "leaves"
        elif why or os.waitstatus_to_exitcode(status) == _EXIT_UNKNOWN:
            end = "lost"
        if why == "timeout":
            error = JobTimedOut(seconds=int(order.seconds))
            fail(self._records, order.task, run=order.run, error=error, heard=self._heard)
        elif why or status:
            run_ended(self._records, order.task, run=order.run, why=end, heard=self._heard)

    def _reason_to_kill(self, order: _Order, began: float) -> str:
        now = time.monotonic()
        if self._stopping_since is not None and now - self._stopping_since >= self._drain_seconds:
            return "drain"
        if now - began > order.seconds + OVERTIME:
            return "timeout"
        return "" if renew_lease(self.connection, order.task, run=order.run) else "lost"

    def _begun(self, order: _Order) -> int:
        """The pid of the child that has the order."""
        child, self._waiting = self._waiting or self._fork(), None
        written = json.dumps(order).encode()
        try:
            child.orders.send(written)
        except OSError:  # it was killed while it waited
            os.waitpid(child.pid, 0)
            child.orders.close()
            child = self._fork()
            child.orders.send(written)
        child.orders.close()
        return child.pid

    def run_maintenance_tasks(self) -> None:
        """Asked when idle, between jobs and in each beat; one worker at a time does it."""
        turn = time.monotonic()
        gap, self._last_turn = turn - self._last_turn, turn
        if gap > LEASE.total_seconds() - BEAT:  # Redis was away: let all beat before any is lost
            self._reap_after = turn + 2 * BEAT
        if turn >= self._reap_after and self._elected():
            sweep(self._records, self._heard)

    def _elected(self) -> bool:
        return bool(self.connection.set("gdsr:reaper", self.name, nx=True, px=REAP * 1000 - 500))

    def _heard(self, job: Job, error: GDSRError) -> None:
        send(self._reports, JobReport.of(job, error))

    def handle_payload(self, message: Any) -> None:
        """A task was cancelled; called in a thread of RQ's, which would end any child."""
        task, child = self._task, self._working
        if child and json.loads(message["data"]).get("job_id") == task:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """RQ does not say when it was told to stop."""
        self._stopping_since = time.monotonic()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A second SIGTERM: hand the job back at the next beat. RQ would lose it."""
        self._drain_seconds = 0

    def set_shutdown_requested_date(self) -> None:
        """RQ would write to Redis in a signal handler."""

    def check_for_suspension(self, burst: bool) -> None:  # noqa: FBT001 - as RQ has it
        """Nobody suspends our workers: RQ would ask before each job, and beat."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:  # noqa: ARG002
        """One round trip, once a second: RQ beats at three places between two jobs, in three each.

        Each of them is a write, and an append-only file that is synced always waits for the disk.
        """
        if (turn := time.monotonic()) >= self._last_beat + STEADY:
            with self.connection.pipeline() as beats:
                super().heartbeat(timeout, beats)
                beats.execute()
            self._last_beat = turn

    # In the child.

    def _fork(self) -> _Child:
        orders, heard = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            orders.close()
            status = 1
            try:
                self._wait_and_work(heard)
                status = 0
            except redis.RedisError:
                status = _EXIT_UNKNOWN
                self.log.exception("Redis did not say what became of the task")
            except Exception:
                self.log.exception("the child of a job failed")
            finally:
                os._exit(status)
        heard.close()
        return _Child(pid, orders)

    def _wait_and_work(self, orders: socket.socket) -> None:
        os.setpgrp()  # a Ctrl-C in the terminal is not for it
        dying_with_parent(parent=self.pid)()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        limit_process(self._settings)
        with contextlib.suppress(redis.RedisError):
            self.connection.ping()  # the client finds itself forked, and connects anew
        with contextlib.suppress(MemoryError):  # of which the job itself can tell
            warm_up()
        written = orders.recv(_MAX_ORDER)
        if not written:
            return  # the worker has ended
        order = _Order(*json.loads(written))
        CONTEXT.set(
            TaskContext(
                run=order.run,
                worker=self.name,
                settings=self._settings,
                records=self._records,
                blobs=self._blobs,
                engine_sockets=self._engine_sockets,
                reports=self._reports,
            )
        )
        seconds = int(order.seconds)
        with UnixSignalDeathPenalty(seconds, JobTimeoutException):  # type: ignore[no-untyped-call]
            TASKS[order.what](order.name)


def _ended(pid: int, *, within: float) -> bool:
    """Whether a child ends so soon. RQ waits with an alarm, which another thread may take when a
    stopped process goes on: then no beat follows.
    """
    child = os.pidfd_open(pid)
    try:
        return bool(select.select([child], [], [], within)[0])
    finally:
        os.close(child)


def limit_process(settings: WorkerSettings) -> None:
    """What a picture can do at most to the process that decodes it; a crash is written down."""
    resource.setrlimit(resource.RLIMIT_AS, (settings.job_memory, settings.job_memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()


def main() -> int:
    """Work on one queue until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m workers.jobs.job_worker", description=__doc__)
    parser.add_argument("--queue", choices=(SMALL, LARGE), required=True)
    parser.add_argument("--engine", type=Path, action="append", required=True, help="unix socket")
    parser.add_argument("--reports", type=Path, help="unix socket that hears how jobs end")
    arguments = parser.parse_args()
    try:
        settings = WorkerSettings.load()
        logs.configure(process=f"job worker {arguments.queue}", level=settings.log_level)
        worker = JobWorker(
            arguments.queue,
            settings=settings,
            engine_sockets=arguments.engine,
            reports=arguments.reports,
        )
    except ConfigurationInvalid as invalid:
        sys.stderr.write(f"job worker: {invalid}\n")
        return EXIT_CONFIGURATION
    except redis.RedisError as failure:
        sys.stderr.write(f"job worker: Redis at GDSR_REDIS_URL does not answer: {failure}\n")
        return 1
    logging.getLogger("rq.worker").setLevel(max(logging.INFO, logging.getLogger().level))
    load_codecs()
    prepare_allocator()
    gc.collect()
    gc.freeze()  # else each child's first collection would write to all pages, and copy them
    worker.work(logging_level=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
