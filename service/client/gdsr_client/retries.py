"""Errors in responses, and retries of those that are temporary."""

import random
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import TypeVar

import httpx2
from anyio import sleep

from gdsr_client.answers import (
    ClientError,
    Problem,
    Refused,
    UnexpectedAnswer,
    Unreachable,
    decoded,
)

#: Statuses of temporary errors: the request is retried.
_TEMPORARY = {502, 503, 504}
#: Seconds before the first retry, and the maximum before any, unless the service asks for more.
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0

T = TypeVar("T")


def checked(answer: httpx2.Response) -> httpx2.Response:
    """The response, if it is not an error.

    Raises:
        Refused: the response is an error.
    """
    if not answer.is_error:
        return answer
    try:
        problem = decoded(Problem, answer.content)
    except UnexpectedAnswer:  # a proxy's page, perhaps
        title = answer.reason_phrase or "Error"
        problem = Problem(type="about:blank", title=title, status=answer.status_code)
    wait = answer.headers.get("Retry-After", "")
    raise Refused(problem, pause=float(wait) if wait.isdecimal() else 0.0)


def pauses() -> Iterator[float]:
    """Seconds before each retry: exponential backoff with jitter, to spread clients over time."""
    pause = _PAUSE
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311
        pause = min(2 * pause, _LONGEST_PAUSE)


async def retried(attempt: Callable[[], Awaitable[T]], *, url: str, patience: float) -> T:
    """Call `attempt`; retry connection failures and temporary errors for `patience` seconds.

    Raises:
        Refused: the service rejected the request.
        Unreachable: the service at `url` does not answer.
    """
    deadline = monotonic() + patience
    backoff = pauses()
    while True:
        requested_pause = 0.0
        try:
            return await attempt()
        except httpx2.UnsupportedProtocol as wrong:
            raise Unreachable(f"{url}: {wrong}") from None
        except httpx2.RequestError as failure:
            error: ClientError = Unreachable(f"{url}: {str(failure) or type(failure).__name__}")
        except Refused as refusal:
            if refusal.problem.status not in _TEMPORARY:
                raise
            error, requested_pause = refusal, refusal.pause
        pause = requested_pause + next(backoff)
        if monotonic() + pause > deadline:
            raise error
        await sleep(pause)
