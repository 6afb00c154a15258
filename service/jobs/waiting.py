"""`Prefer: wait=N` (RFC 7240): the answer to a request is held back until its job has ended."""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from service.services import Services
from workers.contract.errors import QueueUnavailable

_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)
#: A job is looked at this often even if nothing was heard of it, and its client too.
_LOOK_AGAIN = timedelta(seconds=1)


def preferred_wait(prefer: Sequence[str], *, cap: timedelta) -> timedelta | None:
    """How long the client wants to wait, at most `cap`; None: it does not say."""
    found = _WAIT.search(",".join(prefer))
    return None if found is None else min(timedelta(seconds=int(found[1])), cap)


async def found_at_end(
    job_id: str,
    look: Callable[[], Response | None],
    services: Services,
    request: Request,
    *,
    patience: timedelta,
) -> Response | None:
    """What `look`, called in a thread, finds when the job has ended; None when patience, service or
    client are gone before.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience.total_seconds()
    with services.watches.awaiting(job_id) as stirred:
        while not services.stopping.is_set():
            left = deadline - loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_AGAIN.total_seconds())):
                    await stirred.wait()
            stirred.clear()
            try:
                found = await run_in_threadpool(look)
            except QueueUnavailable:
                return None  # the job was accepted, and the client must learn where
            if found is not None or loop.time() >= deadline or await request.is_disconnected():
                return found
    return None
