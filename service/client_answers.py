"""Response models and error handling of `service.client`."""

from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from datetime import datetime

import httpx2
from pydantic import BaseModel, ConfigDict

#: Statuses of temporary errors: the request is retried.
_AGAIN = {502, 503, 504}


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # ignore fields of newer releases


class Problem(_Answer):
    """An RFC 9457 problem: why a request was rejected or a job failed."""

    type: str
    title: str
    status: int
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}" if self.detail else self.title


class Progress(_Answer):
    """Progress of a job; `tiles` is 0 until the picture has been decoded."""

    tiles_done: int = 0
    tiles: int = 0


class Result(_Answer):
    """A finished picture and how it was computed."""

    format: str
    width: int
    height: int
    size: int
    sha256: str
    model: str
    checkpoint: str
    device: str
    precision: str
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    expires_at: datetime
    branches: tuple[str, ...]
    previews: tuple[str, ...] = ()
    invented: float | None = None
    """Share of the fine detail that is invented, 0 to 1; None: not known."""


class Job(_Answer):
    """The current state of a job."""

    id: str
    state: str
    """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
    queue_position: int | None = None
    starts_in_seconds: int | None = None
    progress: Progress = Progress()
    result: Result | None = None
    failure: Problem | None = None

    @property
    def ended(self) -> bool:
        return self.state in {"succeeded", "failed", "cancelled"}


class ClientError(Exception):
    """Base class: there is no result."""


class Unreachable(ClientError):
    """The service does not answer, or not in time."""


class Refused(ClientError):
    """The service rejected the request; see `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class JobLost(ClientError):
    """The job failed, was cancelled or was deleted."""


class DownloadBroken(ClientError):
    """The download is incomplete or corrupted."""


class RetryLater(Exception):
    """The service asks for a retry later."""

    def __init__(self, problem: Problem, seconds: float) -> None:
        super().__init__(str(problem))
        self.problem, self.seconds = problem, seconds


def checked(answer: httpx2.Response) -> httpx2.Response:
    """The response, if it is not an error."""
    if not answer.is_error:
        return answer
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValueError:  # a proxy's page, perhaps
        title = answer.reason_phrase or "Error"
        problem = Problem(type="about:blank", title=title, status=answer.status_code)
    if answer.status_code in _AGAIN:
        wait = answer.headers.get("Retry-After", "")
        raise RetryLater(problem, float(wait) if wait.isdecimal() else 0.0)
    raise Refused(problem)


def job_of(answer: httpx2.Response) -> Job:
    """The job in a response."""
    return Job.model_validate_json(answer.content)


def query(options: Mapping[str, object]) -> dict[str, str]:
    """Options as query parameters: booleans as `true` and `false`, None left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in options.items()
        if value is not None
    }


def promised_digest(answer: httpx2.Response) -> bytes | None:
    """The SHA-256 of `Repr-Digest` (RFC 9530), from this response or from a redirect before it."""
    for one in (answer, *answer.history):
        algorithm, _, value = one.headers.get("Repr-Digest", "").partition("=")
        if algorithm == "sha-256":
            return b64decode(value.strip(":"))
    return None


async def parsed_events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, str]]:
    """Parse server-sent events (WHATWG HTML, 9.2.6) with one line of data each."""
    event: dict[str, str] = {}
    async for line in lines:
        if not line:
            if event:
                yield event
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")


async def unbroken(events: AsyncIterator[dict[str, str]]) -> AsyncIterator[dict[str, str]]:
    """Pass events on; end where the connection breaks."""
    try:
        async for event in events:
            yield event
    except httpx2.TransportError:
        return
