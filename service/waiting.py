"""`Prefer: wait=N` (RFC 7240): the answer to a request is held back until its job has ended."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from service.deps import Services
from workers.contract.errors import QueueUnavailable
from workers.contract.jobs import Job

_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)
#: A job is looked at this often even if nothing was heard of it, and its client too.
_LOOK_AGAIN = timedelta(seconds=1)


def preferred_wait(prefer: Sequence[str], *, cap: timedelta) -> timedelta | None:
    """How long the client wants to wait, at most `cap`; None: it does not say."""
    found = _WAIT.search(",".join(prefer))
    return None if found is None else min(timedelta(seconds=int(found[1])), cap)


async def ended(job: Job, services: Services, request: Request, *, patience: timedelta) -> Job:
    """The job once it has ended, or as it is when patience, service or client are gone."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience.total_seconds()
    with services.watches.awaiting(job.id) as look:
        while not job.ended and not services.stopping.is_set():
            left = deadline - loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_AGAIN.total_seconds())):
                    await look.wait()
            look.clear()
            try:
                job = await run_in_threadpool(services.queue.get, job.id)
            except QueueUnavailable:
                return job  # it was accepted, and the client must learn where
            if loop.time() >= deadline or await request.is_disconnected():
                return job
    return job
