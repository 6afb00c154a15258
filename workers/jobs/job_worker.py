"""The job worker: takes ids from RQ's queues, and runs the tasks in a forked child process.

The child is forked and prepared before the task arrives, and replaced after some tasks, or one that
failed. The parent renews the lease (15 s) every second; a lost run is noticed by whichever worker
does the recovery at the time, and its task is retried once. Neither process imports torch: the
network is behind the engine's socket.
"""

import argparse
import contextlib
import faulthandler
import gc
import json
import logging
import math
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
from typing import Literal, NamedTuple

import redis
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from workers.contract.blobs.open import open_blobs
from workers.contract.errors import (
    BatchNotFound,
    ConfigurationInvalid,
    GDSRError,
    JobFailed,
    JobNotFound,
    JobTimedOut,
    JobTooNew,
)
from workers.contract.observability import logs
from workers.contract.queue.batches import BatchRecords
from workers.contract.queue.connection import connect
from workers.contract.queue.jobs import Job
from workers.contract.queue.records import JobRecords
from workers.contract.queue.runs import LARGE, SMALL, End, next_task, register_worker, renew_lease
from workers.contract.settings import WorkerSettings
from workers.host.parent_death import dying_with_parent
from workers.host.reports import JobReport, send
from workers.host.supervisor import EXIT_CONFIGURATION
from workers.jobs.allocator import prepare_allocator, return_freed_memory
from workers.jobs.recovery import fail, run_ended, sweep
from workers.pictures.opening import load_codecs
from workers.pictures.warm_up import warm_up
from workers.tasks.blend import blend
from workers.tasks.pack import pack
from workers.tasks.unpack import unpack
from workers.tasks.upscale import CONTEXT, TaskContext, upscale

#: The tasks that a child can run. The child ends after a task that does not return True.
TASKS: dict[str, Callable[[str], bool | None]] = {
    "upscale": upscale, "blend": blend, "unpack": unpack, "pack": pack,
}  # fmt: skip
#: Seconds between two renewals of a lease: a cancelled job is killed within this time.
RENEWAL_SECONDS = 1
#: Interval of sweeps. A lost worker's job is queued again after at most a lease and a sweep.
SWEEP_SECONDS = 5
#: Seconds that an idle worker waits for a task before it checks whether a sweep is due.
IDLE = 2
#: Seconds that a child may exceed its time limit before the parent kills it.
OVERTIME = 5
#: Maximum tasks of one child: spreads the cost of the fork, and bounds leaks.
_MAX_TASKS = 50
#: Sent by a child that waits for another task.
_DONE = b"."
log = logging.getLogger(__name__)
#: Why a child is killed.
_Reason = Literal["", "leaves", "lost", "timeout"]
_MAX_ORDER = 4096  # maximum size of an order in bytes
#: Timeout of the blob store; longer than in the service, as jobs can wait.
BLOB_PATIENCE = timedelta(seconds=30)


class _Order(NamedTuple):
    """The task for a child."""

    task: str
    run: str
    what: str
    """One of `TASKS`."""
    name: str
    """Id of the job or the batch."""
    seconds: int
    """Its time limit."""


class _Child(NamedTuple):
    """A prepared process that waits for its order."""

    pid: int
    orders: socket.socket
    """Readable once the process has ended."""


class JobWorker:
    """Takes tasks from the queues of its class, one at a time."""

    def __init__(
        self,
        queue_name: str,
        *,
        settings: WorkerSettings,
        engine_sockets: Sequence[Path],
        reports: Path | None = None,
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._queue_name = queue_name
        self._settings = settings
        self._engine_sockets = engine_sockets
        self._reports = reports
        self._client = connect(  # retries: a Redis that restarts during a job only costs time
            settings.redis_url,
            timeout=timedelta(seconds=20),
            retries=20,
            pause=timedelta(seconds=0.5),
            retry_forever=True,
        )
        self._records = JobRecords(self._client, record_ttl=settings.record_ttl)
        self._batches = BatchRecords(self._client, record_ttl=settings.record_ttl)
        self._blobs = open_blobs(settings, patience=BLOB_PATIENCE)  # used in children only
        self._idle = False
        self._leave_at = math.inf
        self._last_sweep = -math.inf
        self._recover_from = 0.0
        self._left: set[str] = set()
        """Tasks that this release does not understand."""

    # Used in the parent.

    def work(self) -> None:
        """Work until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        child = None
        while self._leave_at == math.inf:
            child = child or self._fork()
            self._idle = True
            self._register_and_sweep()
            task = next_task(self._client, self._queue_name, seconds=IDLE)
            self._idle = False
            if task is not None and (order := self._order(task)) is not None:
                child = self._run(order, child)

    def _stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End at once if idle or at a second signal, else with the task or after the drain time."""
        drained = time.monotonic() + self._settings.drain.total_seconds()
        self._leave_at = drained if self._leave_at == math.inf else 0.0
        if self._idle:  # elsewhere, such as in a fork, the exception would be lost
            sys.exit()

    def _register_and_sweep(self) -> None:
        """Every few seconds: register, and recover lost tasks if no other worker has done so."""
        if time.monotonic() < self._last_sweep + SWEEP_SECONDS:
            return
        register_worker(self._client, self.name)
        now = time.monotonic()
        if now > self._last_sweep + 2 * SWEEP_SECONDS:
            # Redis was down: let all workers renew their leases before any counts as lost.
            self._recover_from = now + 2 * SWEEP_SECONDS
        self._last_sweep = now
        if now < self._recover_from:
            return
        if self._client.set("gdsr:reaper", self.name, nx=True, px=SWEEP_SECONDS * 1000 - 500):
            sweep(self._records, self._report_failure)

    def _order(self, task: str) -> _Order | None:
        """The order to run a task; None if it cannot be run here."""
        kind, _, name = task.rpartition("-")
        try:
            match kind:
                case "batch":
                    what, limit = "unpack", self._batches.get(name).spec.time_limit
                case "zip":
                    if (packing := self._batches.pack(name)) is None:
                        raise BatchNotFound(name)
                    what, limit = "pack", packing.time_limit
                case _:
                    spec = self._records.get(task).spec
                    what, limit = "blend" if spec.blend_of else "upscale", spec.time_limit
        except (JobNotFound, BatchNotFound):
            log.warning("%s is not a known task: dropped", task)
            return None
        except (JobTooNew, ValueError) as problem:
            if kind == "batch" or isinstance(problem, JobTooNew):
                # every sweep queues it again, until a newer worker takes it or its record expires
                if task not in self._left:
                    log.warning("%s is left to a newer worker: %s", task, problem)
                self._left.add(task)
                return None
            log.exception("the record of %s is invalid", task)
            self._fail(task, JobFailed("its record is invalid; see the log of the worker"))
            return None
        return _Order(task, secrets.token_hex(16), what, name, int(limit.total_seconds()))

    def _run(self, order: _Order, child: _Child) -> _Child | None:
        """Let the child run the task; kill it if it has to stop.

        Returns the child if it waits for another task.
        """
        began = time.monotonic()
        why: _Reason = ""
        orders = child.orders
        with contextlib.suppress(OSError):  # a child killed while it waited has ended
            orders.send(json.dumps(order).encode())
        while not select.select([orders], [], [], RENEWAL_SECONDS)[0]:
            if why := self._reason_to_kill(order, began):
                os.kill(child.pid, signal.SIGKILL)
                break
            # last, as it may wait for Redis: a child that ended meanwhile was not too slow
            self._register_and_sweep()
        else:
            with contextlib.suppress(OSError):
                if orders.recv(len(_DONE)):
                    return child
        orders.close()
        _, status = os.waitpid(child.pid, 0)
        if why == "timeout":
            limit = timedelta(seconds=order.seconds)
            self._fail(order.task, JobTimedOut(time_limit=limit), run=order.run)
        elif why or status:
            end: End = why or ("crashed" if os.WIFSIGNALED(status) else "lost")
            run_ended(
                self._records, order.task, run=order.run, why=end, on_failure=self._report_failure
            )
        return None

    def _reason_to_kill(self, order: _Order, began: float) -> _Reason:
        now = time.monotonic()
        if now >= self._leave_at:
            return "leaves"
        if now - began > order.seconds + OVERTIME:
            return "timeout"
        return "" if renew_lease(self._client, order.task, run=order.run) else "lost"

    def _fail(self, task: str, error: GDSRError, *, run: str = "") -> None:
        fail(self._records, task, run=run, error=error, on_failure=self._report_failure)

    def _report_failure(self, job: Job, error: GDSRError) -> None:
        send(self._reports, JobReport.of(job, error))

    # Used in the child.

    def _fork(self) -> _Child:
        orders, received = socket.socketpair()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            status = 1
            try:
                orders.close()
                self._wait_and_work(received, parent=parent)
                status = 0
            except Exception:
                log.exception("the child of a job failed")
            finally:
                os._exit(status)
        received.close()
        return _Child(pid, orders)

    def _wait_and_work(self, orders: socket.socket, *, parent: int) -> None:
        os.setpgrp()  # Ctrl-C in the terminal is for the parent
        dying_with_parent(parent=parent)()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        limit_process(self._settings)
        with contextlib.suppress(redis.RedisError):
            self._client.ping()  # the client detects the fork and reconnects
        with contextlib.suppress(MemoryError):  # which the job itself can report
            warm_up()
        for left in reversed(range(_MAX_TASKS)):
            written = orders.recv(_MAX_ORDER)
            if not written:
                return  # the worker has ended
            if not self._run_task(_Order(*json.loads(written))) or not left:
                return
            return_freed_memory()  # so that the next task finds no pixels of this one
            orders.send(_DONE)

    def _run_task(self, order: _Order) -> bool:
        """Run a task; returns whether this process may run another."""
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
        with UnixSignalDeathPenalty(order.seconds, JobTimeoutException):  # type: ignore[no-untyped-call]
            return bool(TASKS[order.what](order.name))


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
    load_codecs()
    prepare_allocator()
    gc.collect()
    gc.freeze()  # otherwise the first garbage collection of each child would copy all pages
    worker.work()
    return 0


if __name__ == "__main__":
    sys.exit(main())
