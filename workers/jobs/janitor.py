"""The janitor removes expired pictures.

Each worker host runs one; only one of them sweeps at a time. It is a separate process because
listing a store may take minutes, while a job worker has to renew leases every few seconds. Files
that a pending job may read are never removed: its upload, what it has written so far, and the
stored branches that it is derived from.
"""

import argparse
import logging
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import redis

from workers.contract.blobs.base import FOLDERS, BlobEntry, BlobStore
from workers.contract.blobs.open import open_blobs
from workers.contract.blobs.usage import BlobUsage, record
from workers.contract.errors import ConfigurationInvalid, GDSRError
from workers.contract.observability import logs
from workers.contract.queue.batches import BatchRecords
from workers.contract.queue.connection import connect
from workers.contract.queue.records import JobRecords
from workers.contract.settings import WorkerSettings
from workers.host.supervisor import EXIT_CONFIGURATION

#: Time between the starts of two sweeps.
SWEEP_INTERVAL = timedelta(seconds=60)
#: Age after which uploads without a job and temporary files are removed: no request takes so long.
STALE_UPLOAD = timedelta(hours=1)
#: Maximum number of blobs per delete request.
_BATCH = 1000
_PATIENCE = timedelta(seconds=30)
_LOCK = "gdsr:janitor"

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Sweep:
    """One sweep over everything that is stored, with its removals."""

    records: JobRecords
    blobs: BlobStore
    renew_lock: Callable[[], object] = lambda: None
    """Called before each batch of a listing or of removals; an exception ends the sweep."""
    stored: dict[str, BlobEntry] = field(default_factory=dict)
    freed: Counter[str] = field(default_factory=Counter)
    """Freed bytes by reason, see `blob_usage.REASONS`."""

    def sweep(self, *, result_ttl: timedelta, quota: int | None) -> BlobUsage:
        """Remove orphans and expired results, then the oldest results until the rest fits the
        quota.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        now = datetime.now(UTC)
        self.freed["orphan"] += self.blobs.sweep_incoming(age=STALE_UPLOAD)
        for folder in FOLDERS:
            for number, entry in enumerate(self.blobs.entries(folder)):
                if number % _BATCH == 0:  # the listing may take longer than the lock holds
                    self.renew_lock()
                self.stored[entry.key] = entry
        self._remove("orphan", self._orphans(now))
        self._remove("expired", [e for e in self._results() if now - e.written_at > result_ttl])
        if quota is not None:
            self._remove("quota", _oldest(self._results(), beyond=self._size() - quota))
        return BlobUsage(blobs=len(self.stored), size=self._size(), quota=quota)

    def _remove(self, reason: str, entries: Sequence[BlobEntry]) -> None:
        for start in range(0, len(entries), _BATCH):
            self.renew_lock()
            needed = self._needed()  # read last: a job may have been created since the listing
            batch = [e for e in entries[start : start + _BATCH] if _job_id(e.key) not in needed]
            if batch:
                self.blobs.delete(*(entry.key for entry in batch))
            for entry in batch:
                self.freed[reason] += self.stored.pop(entry.key).size

    def _needed(self) -> set[str]:
        """Jobs whose blobs must stay: pending ones, and those that they are derived from; also
        batches that are not unpacked.
        """
        active = self.records.active()
        jobs = self.records.get_many(active).values()
        return {
            *active,
            *self._batches().unpacking(),
            *(job.spec.blend_of for job in jobs if job and job.spec.blend_of),
        }

    def _batches(self) -> BatchRecords:
        return BatchRecords(self.records.client, record_ttl=self.records.record_ttl)

    def _orphans(self, now: datetime) -> list[BlobEntry]:
        """Uploads of ended jobs, branches whose run ended before it stored its result, and old ones
        without a job, which no batch is still unpacked into.
        """
        # read before the jobs: a batch leaves the list in the step that makes its jobs
        since = min(now, self._batches().unpacking_since())
        whole = {_run(key) for key in self.stored if key.count(".") == 2}
        found = [
            entry
            for key, entry in self.stored.items()
            if key.startswith("inputs/") or (key.count(".") == 3 and _run(key) not in whole)
        ]
        orphans = []
        for start in range(0, len(found), _BATCH):
            batch = found[start : start + _BATCH]
            jobs = self.records.get_many([_job_id(entry.key) for entry in batch])
            for entry in batch:
                job = jobs[_job_id(entry.key)]
                is_input = entry.key.startswith("inputs/")
                # a map of an ended job that is not its own is of the one that will replace it
                if job is None or (is_input and entry.key not in job.spec.inputs):
                    is_orphan = since - entry.written_at > STALE_UPLOAD
                else:
                    kept = () if job.result is None else job.result.keys
                    is_orphan = job.ended and entry.key not in kept
                if is_orphan:
                    orphans.append(entry)
        return orphans

    def _results(self) -> list[BlobEntry]:
        return [entry for entry in self.stored.values() if entry.key.startswith("results/")]

    def _size(self) -> int:
        return sum(entry.size for entry in self.stored.values())


def _oldest(entries: Iterable[BlobEntry], *, beyond: int) -> list[BlobEntry]:
    """The oldest entries with at least this many bytes in total."""
    oldest: list[BlobEntry] = []
    for entry in sorted(entries, key=lambda entry: entry.written_at):
        if beyond <= 0:
            break
        oldest.append(entry)
        beyond -= entry.size
    return oldest


def _job_id(key: str) -> str:
    """The job of a key: `results/<job>.<run>.png` or `inputs/<job>`."""
    return key.partition("/")[2].partition(".")[0]


def _run(key: str) -> str:
    """The job and the run of a key: `results/<job>.<run>` for `results/<job>.<run>.gan.png`."""
    return ".".join(key.split(".")[:2])


def sweep_if_due(
    settings: WorkerSettings, client: redis.Redis, blobs: BlobStore
) -> BlobUsage | None:
    """Sweep, unless another janitor does, or one has begun to within `SWEEP_INTERVAL`.

    Raises:
        StorageUnavailable: the store does not answer.
        redis.RedisError: Redis does not answer.
        LockNotOwnedError: another janitor has the lock: this one was suspended for too long.
    """
    lock = client.lock(_LOCK, timeout=SWEEP_INTERVAL.total_seconds(), blocking=False)
    if not lock.acquire():
        return None
    records = JobRecords(client, record_ttl=settings.record_ttl)
    sweep = Sweep(records=records, blobs=blobs, renew_lock=lock.reacquire)
    try:
        usage = sweep.sweep(result_ttl=settings.result_ttl, quota=settings.blob_quota)
    finally:
        freed = {reason: size for reason, size in sweep.freed.items() if size}
        if freed:
            log.info("freed bytes: %s", freed)
    record(client, usage, freed)
    return usage


def main() -> int:
    """Sweep periodically until SIGTERM; failures are retried at the next sweep."""
    argparse.ArgumentParser(prog="python -m workers.jobs.janitor", description=__doc__).parse_args()
    stopping = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopping.set())
    try:
        settings = WorkerSettings.load()
        logs.configure(process="janitor", level=settings.log_level)
        client = connect(settings.redis_url, timeout=timedelta(seconds=10), retries=3)
        blobs = open_blobs(settings, patience=_PATIENCE)
    except ConfigurationInvalid as invalid:
        sys.stderr.write(f"janitor: {invalid}\n")
        return EXIT_CONFIGURATION
    while True:
        try:
            sweep_if_due(settings, client, blobs)
        except (GDSRError, redis.RedisError) as failure:
            log.warning("the sweep was aborted: %s: %s", type(failure).__name__, failure)
        if stopping.wait(SWEEP_INTERVAL.total_seconds()):
            return 0


if __name__ == "__main__":
    sys.exit(main())
