"""The job worker: RQ's forking worker with prompt heartbeats, a lifeline and a memory limit.

Each job runs in a child of its own, forked and made ready before the job is there. The parent beats
every 5 s for a lease of 15 s; a worker that is lost is noticed by whichever worker is the reaper at
the time, and its job runs once more. Neither process imports torch: the network is behind the
engine's socket.
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
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import redis
from redis.client import Pipeline
from rq import Worker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job as RQJob
from rq.queue import Queue
from rq.registry import clean_registries
from rq.timeouts import HorseMonitorTimeoutException
from rq.utils import now

from workers.contract import logs
from workers.contract.blobs import open_blobs
from workers.contract.connection import connect
from workers.contract.errors import ConfigurationInvalid, GDSRError, JobTooNew
from workers.contract.jobs import Job
from workers.contract.records import JobRecords
from workers.contract.safe_rq import LARGE, SERVED, SMALL, SafeJob, SafeQueue, open_queue
from workers.contract.settings import WorkerSettings
from workers.heap import prepare_heap
from workers.lifeline import dying_with_parent
from workers.pictures.opening import load_codecs
from workers.pictures.rehearsal import rehearse
from workers.reaper import CAUSE, CRASHES, reconcile, reconcile_batches
from workers.reports import JobReport, send
from workers.supervisor import EXIT_CONFIGURATION
from workers.tasks import CONTEXT, TaskContext

#: Seconds. A lost worker's job waits again after at most LEASE + REAP + BEAT.
LEASE, BEAT, REAP = 15, 5, 5
#: How long past its own time limit a child may live before the parent kills it.
OVERTIME = 5
#: Seconds in which one beat of an idle worker, or one that goes from job to job, is enough.
STEADY = 1
#: Seconds before the next job, so that one that nobody can do yet does not go round and round.
LEAVE_PAUSE = 1
_MAX_ORDER = 4096  # bytes of what a waiting child is told
#: How long the blob store may take to answer; jobs can wait, people cannot.
BLOB_PATIENCE = timedelta(seconds=30)


class _WaitingChild(NamedTuple):
    """A child that is set up, and has no job yet."""

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
            retries=120,
            pause=timedelta(seconds=0.5),
        )
        super().__init__(
            [open_queue(name, connection) for name in SERVED[queue_name]],
            name=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            connection=connection,
            serializer="json",
            job_class=SafeJob,
            queue_class=SafeQueue,
            log_job_description=False,
            worker_ttl=20,
            job_monitoring_interval=LEASE,  # of RQ's alarm, see `wait_for_horse`
        )
        self._settings = settings
        self._engine_sockets = engine_sockets
        self._reports = reports
        self._records = JobRecords(connection, record_ttl=settings.record_ttl)
        self._blobs = open_blobs(settings, patience=BLOB_PATIENCE)  # used in children only
        self._drain_seconds = settings.drain.total_seconds()
        #: This worker's own reason to kill its child: drain, timeout or lost.
        self._why: str | None = None
        self._waiting: _WaitingChild | None = None
        self._last_turn = self._last_beat = float("-inf")
        self._reap_after = 0.0

    # In the parent.

    def get_heartbeat_ttl(self, job: RQJob, working_time: float = 0.0) -> int:  # noqa: ARG002
        return LEASE

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """One round trip, once a second: RQ beats at four places between two jobs, in three each.

        Each of them is a write, and an append-only file that is synced always waits for the disk.
        """
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
        elif (turn := time.monotonic()) >= self._last_beat + STEADY:
            with self.connection.pipeline() as beat:
                super().heartbeat(timeout, beat)
                beat.execute()
            self._last_beat = turn

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Write the state where it is another one; RQ makes an idle worker idle twice."""
        if pipeline is not None or state != self._state:
            super().set_state(state, pipeline)

    def execute_job(self, job: RQJob, queue: Queue) -> None:
        self._why = self._stopped_job_id = None
        try:
            self._records.get(job.id)
        except JobTooNew:
            self._leave(job, queue)
        except (GDSRError, ValueError):
            super().execute_job(job, queue)  # whose run says what is wrong
        else:
            super().execute_job(job, queue)

    def _leave(self, job: RQJob, queue: Queue) -> None:
        """Put a job of a newer release behind the others, for a worker of that release."""
        with self.connection.pipeline() as pipe:
            pipe.lrem(queue.intermediate_queue_key, 1, job.id)
            pipe.rpush(queue.key, job.id)
            pipe.execute()
        self.log.warning("job %s is of a newer release: left to a newer worker", job.id)
        time.sleep(LEAVE_PAUSE)

    def check_for_suspension(self, burst: bool) -> None:  # noqa: FBT001 - as RQ has it
        """Nobody suspends our workers: RQ would ask before each job, and beat."""

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[RQJob, Queue] | None:
        """The next job; by then there is a child for it."""
        if self._waiting is None:
            self._waiting = self._fork()
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def fork_work_horse(self, job: RQJob, queue: Queue) -> None:
        """Tell the child that waits which job is its own."""
        run = self.execution
        order = json.dumps([queue.name, job.id, "" if run is None else run.id]).encode()
        child, self._waiting = self._waiting or self._fork(), None
        try:
            child.orders.send(order)
        except OSError:  # it was killed while it waited
            os.waitpid(child.pid, 0)
            child.orders.close()
            child = self._fork()
            child.orders.send(order)
        child.orders.close()
        self._horse_pid = child.pid

    def _fork(self) -> _WaitingChild:
        orders, heard = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            orders.close()
            try:
                self._wait_and_work(heard)
            except Exception:
                self.log.exception("the child of a job failed")
            finally:
                os._exit(1)
        heard.close()
        return _WaitingChild(pid, orders)

    def wait_for_horse(self) -> tuple[int | None, int | None, resource.struct_rusage | None]:
        # RQ's alarm may be taken by a thread when a stopped process goes on; the wait would too,
        # without a beat, until the child ends.
        try:
            child = os.pidfd_open(self.horse_pid)
        except ProcessLookupError:
            return None, None, None
        try:
            ended, _, _ = select.select([child], [], [], BEAT)
        finally:
            os.close(child)
        if not ended:
            raise HorseMonitorTimeoutException
        return super().wait_for_horse()

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        # RQ kills the process group of this pid, and its own group when the pid is still 0.
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, sig)

    def maintain_heartbeats(self, job: RQJob, execution: Execution) -> None:
        self._why = self._reason_to_kill(job, execution)
        if self._why or self._stopped_job_id == job.id:  # a stop may come before the fork
            self.kill_horse()
        else:
            super().maintain_heartbeats(job, execution)
            self.run_maintenance_tasks()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A second SIGTERM: hand the job back at the next beat."""
        self._drain_seconds = 0

    def handle_work_horse_killed(self, job: RQJob, retpid: Any, ret_val: Any, rusage: Any) -> None:
        del retpid, ret_val, rusage
        if self._why is None:
            self.connection.hincrby(job.key, CRASHES, 1)  # outlives a retry, goes with the hash
        if self._why == "timeout":
            self.connection.hset(job.key, CAUSE, "timeout")
            job.retries_left = 0

    def handle_job_failure(
        self,
        job: RQJob,
        queue: Queue,
        started_job_registry: Any = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        if execution and self._lost(job, execution):
            self.log.warning("lease of %s lost, dropped", job.id)
            return
        if execution and self._why == "drain" and not self.is_horse:
            self._hand_back(job, queue, execution)
        else:
            super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)
        self._reconcile([job.id])

    def run_maintenance_tasks(self) -> None:
        """Asked when idle, between jobs and in each beat; one worker at a time does it."""
        turn = time.monotonic()
        gap, self._last_turn = turn - self._last_turn, turn
        if gap > LEASE - BEAT:  # Redis was away: let every worker beat before any is called lost
            self._reap_after = turn + 2 * BEAT
        if turn >= self._reap_after and self._elected():
            for name in (SMALL, LARGE):
                queue = open_queue(name, self.connection)
                queue.give_up_popped()
                clean_registries(queue)
            self._reconcile(self._records.active())
            reconcile_batches(self.connection, record_ttl=self._settings.record_ttl)

    def _reconcile(self, job_ids: Sequence[str]) -> None:
        def failed(job: Job, error: GDSRError) -> None:
            send(self._reports, JobReport.of(job, error))

        reconcile(self.connection, self._records, job_ids, failed=failed)

    def _elected(self) -> bool:
        return bool(self.connection.set("gdsr:reaper", self.name, nx=True, px=REAP * 1000 - 500))

    def _reason_to_kill(self, job: RQJob, execution: Execution) -> str | None:
        asked = self._shutdown_requested_date
        if self._stop_requested and asked and _since(asked) >= self._drain_seconds:
            return "drain"
        if job.started_at and _since(job.started_at) > float(job.timeout or 0) + OVERTIME:
            return "timeout"
        return "lost" if self._lost(job, execution) else None

    def _lost(self, job: RQJob, execution: Execution) -> bool:
        """Whether the lease is gone: cancelled, deleted, or somebody else's by now."""
        key = job.started_job_registry.key
        return self.connection.zscore(key, execution.composite_key) is None

    def _hand_back(self, job: RQJob, queue: Queue, execution: Execution) -> None:
        """Back to the front of the queue, without using up the retry."""
        with self.connection.pipeline() as pipe:
            self.cleanup_execution(job, pipeline=pipe, execution=execution)
            queue._enqueue_job(job, pipeline=pipe, at_front=True)  # noqa: SLF001
            pipe.execute()
        self.log.info("job %s handed back", job.id)

    # In the child.

    def _wait_and_work(self, orders: socket.socket) -> None:
        os.setpgrp()  # as RQ does: a Ctrl-C in the terminal is not for it
        dying_with_parent(parent=self.pid)()
        self.setup_work_horse_signals()  # type: ignore[no-untyped-call]
        limit_this_process(self._settings)
        with contextlib.suppress(redis.RedisError):
            self.connection.ping()  # the client finds itself forked, and connects anew
        with contextlib.suppress(MemoryError):  # of which the job itself can tell
            rehearse()
        order = orders.recv(_MAX_ORDER)
        if not order:
            os._exit(0)  # the worker has ended
        name, job_id, run = json.loads(order)
        queue = open_queue(name, self.connection)
        job = SafeJob(job_id, self.connection, self.serializer)
        job.origin = name
        with contextlib.suppress(NoSuchJobError):  # then it cannot be started either
            job.refresh()  # type: ignore[no-untyped-call]
        self.execution = Execution(run, job_id, self.connection, worker_name=self.name)
        CONTEXT.set(
            TaskContext(
                run=run,
                worker=self.name,
                settings=self._settings,
                records=self._records,
                blobs=self._blobs,
                engine_sockets=self._engine_sockets,
                reports=self._reports,
            )
        )
        self.main_work_horse(job, queue)

    def prepare_job_execution(
        self,
        job: RQJob,
        remove_from_intermediate_queue: bool = False,  # noqa: ARG002, FBT001, FBT002 - RQ's name
    ) -> None:
        """RQ would leave what a worker of two queues starts on its list of popped jobs."""
        run = self.execution
        if run is None or not open_queue(job.origin, self.connection).start(job, run, self.name):
            self.log.warning("job %s is not this worker's any more", job.id)
            with self.connection.pipeline() as pipe:
                self.cleanup_execution(job, pipeline=pipe, execution=run)
                pipe.execute()
            os._exit(0)

    def handle_execution_ended(self, job: RQJob, queue: Queue, heartbeat_ttl: int) -> None:  # noqa: ARG002
        """RQ would beat for call-backs, which there are not."""
        job.ended_at = now()

    def handle_job_success(
        self,
        job: RQJob,
        queue: Queue,  # noqa: ARG002 - RQ's name
        started_job_registry: Any,  # noqa: ARG002
        execution: Execution,
    ) -> None:
        if not open_queue(job.origin, self.connection).finish(job, execution):
            self.log.warning("lease of %s lost, dropped", job.id)

    def handle_exception(self, job: RQJob, *exc_info: Any) -> None:
        job.retries_left = 0  # what a task raises is no lost worker
        super().handle_exception(job, *exc_info)


def limit_this_process(settings: WorkerSettings) -> None:
    """What a picture can do at most to the process that decodes it; a crash is written down."""
    resource.setrlimit(resource.RLIMIT_AS, (settings.job_memory, settings.job_memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()


def _since(moment: datetime) -> float:
    return (now() - moment).total_seconds()


def main() -> int:
    """Work on one queue until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m workers.job_worker", description=__doc__)
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
    prepare_heap()
    gc.collect()
    gc.freeze()  # else each child's first collection would write to all pages, and copy them
    worker.work(logging_level=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
