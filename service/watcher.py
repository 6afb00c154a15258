"""Publishes job changes to SSE subscribers: one Redis subscription and one reader per process.

Every change of a record publishes the job's id on Redis. A thread receives it; a task then reads
the changed records of all followed jobs at once, at most 20 times a second, and renders each job
once for all its subscribers. Subscribers take the latest snapshot when they are ready, so a slow
reader skips intermediate steps, blocks nobody and fills no queue.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

import redis
from fastapi.concurrency import run_in_threadpool

from service.views import JobView
from workers.contract.errors import QueueUnavailable
from workers.contract.queue.estimates import QueuePosition
from workers.contract.queue.jobs import Job, JobState
from workers.contract.queue.queue import JobQueue
from workers.contract.queue.runs import EVENTS

#: Changes closer together than this are merged.
PAUSE = timedelta(seconds=0.05)
#: Every followed job is polled this often even if no event arrives.
RECHECK = timedelta(seconds=15)
#: Timeout of a silent subscription, which is then renewed: its connection may be dead.
SILENCE = timedelta(seconds=60)
_RETRY = timedelta(seconds=0.5)
_LISTEN_SECONDS = 0.25
#: Number of remembered ended jobs: a job may end between its submission and the start of a wait.
_MOST_REMEMBERED = 1000
_ACTIVE_STATES = {JobState.QUEUED.value, JobState.RUNNING.value}
#: Fields that are sent between changes of state.
_PROGRESS = {"queue_position", "starts_in_seconds", "progress"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSnapshot:
    """A job as shown to subscribers; `job` is None if it was deleted."""

    job: Job | None
    position: QueuePosition | None
    view: str = ""
    progress: str = ""
    tag: str = "gone"

    @classmethod
    def of(cls, job: Job | None, position: QueuePosition | None) -> Self:
        if job is None:
            return cls(job=None, position=None)
        view = JobView.of(job, position=position)
        return cls(
            job=job,
            position=position,
            view=view.model_dump_json(),
            progress=view.model_dump_json(include=_PROGRESS),
            tag=view.tag,
        )

    @property
    def ended(self) -> bool:
        return self.job is None or self.job.ended


@dataclass(slots=True, eq=False)
class Topic:
    """The subscribers of one job."""

    snapshot: JobSnapshot | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next change, then replaced by a new event."""
    watchers: int = 0

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class JobSubscriptions:
    """All followed jobs of one service process."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._topics: dict[str, Topic] = {}
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._ended: dict[str, None] = {}
        self._stale: set[str] = set()
        self._any_stale = asyncio.Event()
        self._closing = threading.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow jobs inside the block, in the event loop of the subscribers."""
        listening = asyncio.to_thread(self._listen, asyncio.get_running_loop())
        tasks = [asyncio.create_task(listening), asyncio.create_task(self._refresh())]
        yield
        self._closing.set()
        tasks[1].cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    def wake_all(self) -> None:
        """Wake all subscribers, whether or not their job has changed."""
        for topic in self._topics.values():
            topic.wake()
        self._on_changes(ended=self._waiters)

    @contextmanager
    def awaiting(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the job may have ended, or ended just before the block."""
        may_have_ended = asyncio.Event()
        self._waiters.setdefault(job_id, set()).add(may_have_ended)
        if job_id in self._ended:
            may_have_ended.set()
        try:
            yield may_have_ended
        finally:
            self._waiters[job_id].remove(may_have_ended)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Topic]:
        """The job's topic, updated inside the block."""
        topic = self._topics.setdefault(job_id, Topic())
        topic.watchers += 1
        if topic.snapshot is None:
            self._on_changes({job_id})
        try:
            yield topic
        finally:
            topic.watchers -= 1
            if not topic.watchers:
                del self._topics[job_id]

    def _on_changes(self, stale: Iterable[str] = (), ended: Iterable[str] = ()) -> None:
        """Handle changes of jobs, and of jobs that may have ended."""
        self._stale.update(stale)
        self._any_stale.set()
        for job_id in ended:
            for may_have_ended in self._waiters.get(job_id, ()):
                may_have_ended.set()

    def _remember_ended(self, job_id: str) -> None:
        self._ended[job_id] = None
        if len(self._ended) > _MOST_REMEMBERED:
            del self._ended[next(iter(self._ended))]

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        recheck_at = loop.time() + RECHECK.total_seconds()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(recheck_at):
                    await self._any_stale.wait()
            if loop.time() >= recheck_at:
                recheck_at = loop.time() + RECHECK.total_seconds()
                self._on_changes(self._topics, self._waiters)
            self._any_stale.clear()
            stale, self._stale = self._stale & self._topics.keys(), set()
            if self._topics:
                try:
                    await self._update_snapshots(stale)
                except QueueUnavailable as failure:
                    logger.warning("cannot read jobs for event streams: %s", failure)
                    self._on_changes(stale)
                    await asyncio.sleep(_RETRY.total_seconds())
                except Exception:  # an invalid record must not end all streams
                    logger.exception("cannot send a change to event streams")
            await asyncio.sleep(PAUSE.total_seconds())

    async def _update_snapshots(self, stale: set[str]) -> None:
        """Read the stale jobs, and the positions of all queued ones: they move up together."""
        known = {
            job_id: topic.snapshot
            for job_id, topic in self._topics.items()
            if topic.snapshot is not None and job_id not in stale
        }

        def read() -> dict[str, JobSnapshot]:
            found = {job_id: snapshot.job for job_id, snapshot in known.items()}
            found |= self._queue.get_many(sorted(stale))
            queued = {id_ for id_, job in found.items() if job and job.state is JobState.QUEUED}
            positions = self._queue.queue_positions() if queued else {}
            return {
                job_id: JobSnapshot.of(found[job_id], positions.get(job_id))
                for job_id in stale | queued
                if job_id in stale or known[job_id].position != positions.get(job_id)
            }

        for job_id, latest in (await run_in_threadpool(read)).items():
            topic = self._topics.get(job_id)
            if topic is not None and (topic.snapshot is None or latest.tag != topic.snapshot.tag):
                topic.snapshot = latest
                topic.wake()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receive changes, in its own thread, until `running` ends."""
        down = False
        while not self._closing.is_set():
            try:
                with self._queue.client.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(EVENTS)
                    down, heard = False, time.monotonic()
                    while not self._closing.is_set():
                        message = subscription.get_message(timeout=_LISTEN_SECONDS)
                        if message is None:
                            if time.monotonic() > heard + SILENCE.total_seconds():
                                break
                            continue
                        heard = time.monotonic()
                        if message["type"] != "message":  # (re)connected: any may have changed
                            loop.call_soon_threadsafe(self._on_changes, self._topics, self._waiters)
                            continue
                        job_id, _, state = message["data"].decode(errors="replace").partition(" ")
                        may_have_ended = state not in _ACTIVE_STATES
                        if may_have_ended:
                            self._remember_ended(job_id)
                        # Skip the event loop if nobody follows the job: later subscribers read the
                        # record themselves.
                        if self._topics or (may_have_ended and job_id in self._waiters):
                            ended = {job_id} if may_have_ended else set()
                            loop.call_soon_threadsafe(self._on_changes, {job_id}, ended)
            except redis.RedisError as failure:
                if not down:  # once per outage
                    logger.warning("cannot receive job changes: %s", failure)
                down = True
                self._closing.wait(_RETRY.total_seconds())
