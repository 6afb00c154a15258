"""The job worker: takes ids from RQ's queues, and runs each task in a forked child process.

The child is forked and prepared before the job arrives. The parent renews the lease (15 s) every 5
s; a lost run is noticed by whichever worker does the recovery at the time, and its job is retried
once. Neither process imports torch: the network is behind the engine's socket.
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

#: The tasks that a child can run.
TASKS: dict[str, Callable[[str], None]] = {
    "upscale": upscale, "blend": blend, "unpack": unpack, "pack": pack,
}  # fmt: skip
#: Seconds. A lost worker's job is queued again after at most LEASE, BEAT and REAP.
BEAT, REAP = 5, 5
#: How long a child may exceed its time limit before the parent kills it.
OVERTIME = 5
#: Minimum seconds between two heartbeats of a worker, idle or between jobs.
STEADY = 1
#: Seconds before the next job, so that a job that nobody can run yet does not spin.
LEAVE_PAUSE = 1
_MAX_ORDER = 4096  # maximum size of an order in bytes
#: Timeout of the blob store; longer than in the service, as jobs can wait.
BLOB_PATIENCE = timedelta(seconds=30)
#: Exit status of a child that could not record the outcome of its task.
_EXIT_UNKNOWN = 75


class _Order(NamedTuple):
    """The task for a child."""

    task: str
    run: str
    what: str
    """One of `TASKS`."""
    name: str
    """Id of the job or the batch."""
    seconds: float
    """Its time limit."""


class _Child(NamedTuple):
    """A prepared process that waits for its order."""

    pid: int
    orders: socket.socket


class JobWorker(Worker):
    """Takes jobs from the queues of its class."""

    max_connection_wait_time = (
        2.0  # seconds between attempts while Redis is down; RQ's default is 60
    )
    should_run_maintenance_tasks = True  # RQ's own lock outlives a killed worker by 15 minutes

    def __init__(
        self,
        queue_name: str,
        *,
        settings: WorkerSettings,
        engine_sockets: Sequence[Path],
        reports: Path | None = None,
    ) -> None:
        connection = connect(  # retries: a Redis that restarts during a job only costs time
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
        #: The current task, and the child that runs it.
        self._task, self._working = "", 0
        self._last_turn = self._last_beat = float("-inf")
        self._reap_after = 0.0

    # Used in the parent.

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Delivered, Queue] | None:
        """Wait for the next job; ensures that a child is ready for it."""
        if self._waiting is None:
            self._waiting = self._fork()
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def execute_job(self, job: Delivered, queue: Queue) -> None:
        """Run a task in a child and supervise it."""
        try:
            order = self._order(job.id)
        except JobTooNew:
            self.log.warning("job %s belongs to a newer release: left to a newer worker", job.id)
            queue.push_job_id(job.id)
            time.sleep(LEAVE_PAUSE)
        except (JobNotFound, BatchNotFound, ValueError):  # deleted, or invalid
            self.log.warning("%s is not a known task: dropped", job.id)
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
        """Handle the task of a child that ended, if the child could not do it itself."""
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
        """Pid of the child that got the order."""
        child, self._waiting = self._waiting or self._fork(), None
        written = json.dumps(order).encode()
        try:
            child.orders.send(written)
        except OSError:  # the child was killed while it waited
            os.waitpid(child.pid, 0)
            child.orders.close()
            child = self._fork()
            child.orders.send(written)
        child.orders.close()
        return child.pid

    def run_maintenance_tasks(self) -> None:
        """Called when idle, between jobs and at each heartbeat; one worker at a time does the
        recovery.
        """
        turn = time.monotonic()
        gap, self._last_turn = turn - self._last_turn, turn
        if (
            gap > LEASE.total_seconds() - BEAT
        ):  # Redis was down: let all workers renew their leases before any counts as lost
            self._reap_after = turn + 2 * BEAT
        if turn >= self._reap_after and self._elected():
            sweep(self._records, self._heard)

    def _elected(self) -> bool:
        return bool(self.connection.set("gdsr:reaper", self.name, nx=True, px=REAP * 1000 - 500))

    def _heard(self, job: Job, error: GDSRError) -> None:
        send(self._reports, JobReport.of(job, error))

    def handle_payload(self, message: Any) -> None:
        """Handle the cancellation of a task; called in a thread of RQ, whose own handler kills any
        child.
        """
        task, child = self._task, self._working
        if child and json.loads(message["data"]).get("job_id") == task:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Log the stop request, as RQ does not."""
        self._stopping_since = time.monotonic()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle a second SIGTERM: return the job at the next heartbeat. RQ would lose it."""
        self._drain_seconds = 0

    def set_shutdown_requested_date(self) -> None:
        """Disabled: RQ would write to Redis in a signal handler."""

    def check_for_suspension(self, burst: bool) -> None:  # noqa: FBT001 - as RQ has it
        """Disabled: workers are never suspended, and RQ would query Redis before each job."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:  # noqa: ARG002
        """Heartbeat in one round trip, at most once a second: RQ sends three at each of three
        places.

        Each of them is a write, and an append-only file that is always synced waits for the disk.
        """
        if (turn := time.monotonic()) >= self._last_beat + STEADY:
            with self.connection.pipeline() as beats:
                super().heartbeat(timeout, beats)
                beats.execute()
            self._last_beat = turn

    # Used in the child.

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
                self.log.exception("Redis failed while the outcome of the task was recorded")
            except Exception:
                self.log.exception("the child of a job failed")
            finally:
                os._exit(status)
        heard.close()
        return _Child(pid, orders)

    def _wait_and_work(self, orders: socket.socket) -> None:
        os.setpgrp()  # Ctrl-C in the terminal is for the parent
        dying_with_parent(parent=self.pid)()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        limit_process(self._settings)
        with contextlib.suppress(redis.RedisError):
            self.connection.ping()  # the client detects the fork and reconnects
        with contextlib.suppress(MemoryError):  # which the job itself can report
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
    """Wait briefly for a child to end. RQ uses an alarm, which another thread may receive when a
    stopped process continues: then leases are not renewed any more.
    """
    child = os.pidfd_open(pid)
    try:
        return bool(select.select([child], [], [], within)[0])
    finally:
        os.close(child)


def limit_process(settings: WorkerSettings) -> None:
    """Limit the resources of a process that decodes a picture; crashes are logged."""
    resource.setrlimit(resource.RLIMIT_AS, (settings.job_memory, settings.job_memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()


def main() -> int:
    """Work on one queue until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m workers.jobs.job_worker", description=__doc__)
    parser.add_argument("--queue", choices=(SMALL, LARGE), required=True)
    parser.add_argument("--engine", type=Path, action="append", required=True, help="unix socket")
    parser.add_argument("--reports", type=Path, help="unix socket that receives job reports")
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
    gc.freeze()  # otherwise the first garbage collection of each child would copy all pages
    worker.work(logging_level=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
