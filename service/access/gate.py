"""Rejects uploads by their request head while the queue is full.

Reading, storing and deleting a picture that is rejected in the end costs as much as serving several
pictures. Admission alone decides whether a job fits. After admission has rejected a job, the queue
is polled a few times a second, until there is room again.
"""

import time

from fastapi.concurrency import run_in_threadpool

from workers.contract.errors import QueueFull
from workers.contract.queue.idempotency import is_used
from workers.contract.queue.queue import JobQueue

#: Minimum seconds between two polls of a full queue.
_POLL_SECONDS = 0.2


class QueueGate:
    """Closed while no job fits into the queue."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._in_doubt = False
        self._shortage: QueueFull | None = None
        self._next_poll = 0.0

    async def check(self, owner: str, key: str | None) -> None:
        """Raise QueueFull if no job fits, unless the idempotency key has a job already."""
        if self._in_doubt and time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + _POLL_SECONDS
            self._shortage = await run_in_threadpool(self._queue.shortage)
            self._in_doubt = self._shortage is not None
        if (shortage := self._shortage) is None:
            return
        if key is None or not await run_in_threadpool(is_used, self._queue.client, owner, key):
            raise shortage.with_traceback(None)  # uploads share this exception

    def recheck(self) -> None:
        """Poll the queue before the next upload, because this one did not fit."""
        self._in_doubt = True
