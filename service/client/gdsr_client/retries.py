"""Errors in responses, and retries of those that are temporary."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import httpx2
from anyio import sleep

from gdsr_client.answers import Problem
from gdsr_client.decoding import decoded
from gdsr_client.errors import ClientError, Refused, UnexpectedAnswer, Unreachable

#: Statuses of temporary errors: the request is retried.
_TEMPORARY = {502, 503, 504}
#: Seconds between two retries if the service does not specify them, and the maximum.
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0

T = TypeVar("T")


class _RetryLater(Exception):
    """The service asks for a retry later."""

    def __init__(self, problem: Problem, seconds: float) -> None:
        super().__init__(str(problem))
        self.problem, self.seconds = problem, seconds


def checked(answer: httpx2.Response) -> httpx2.Response:
    """The response, if it is not an error.

    Raises:
        Refused: it is an error.
    """
    if not answer.is_error:
        return answer
    try:
        problem = decoded(Problem, answer.content)
    except UnexpectedAnswer:  # a proxy's page, perhaps
        title = answer.reason_phrase or "Error"
        problem = Problem(type="about:blank", title=title, status=answer.status_code)
    if answer.status_code in _TEMPORARY:
        wait = answer.headers.get("Retry-After", "")
        raise _RetryLater(problem, float(wait) if wait.isdecimal() else 0.0)
    raise Refused(problem)


async def retried(attempt: Callable[[], Awaitable[T]], *, url: str, patience: float) -> T:
    """Call `attempt`; retry connection failures and temporary errors for `patience` seconds.

    Raises:
        Refused: the service rejected the request.
        Unreachable: the service at `url` does not answer.
    """
    deadline = monotonic() + patience
    pause = _PAUSE
    while True:
        try:
            return await attempt()
        except httpx2.UnsupportedProtocol as wrong:
            raise Unreachable(f"{url}: {wrong}") from None
        except httpx2.TransportError as failure:
            error: ClientError = Unreachable(f"{url}: {str(failure) or type(failure).__name__}")
        except _RetryLater as later:
            error, pause = Refused(later.problem), max(pause, later.seconds)
        if monotonic() + pause > deadline:
            raise error
        await sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
