"""Answers of the service: jobs, results, problems, and the errors that they lead to.

Fields of newer releases are ignored.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self, TypeVar


def readable(size: int) -> str:
    """A number of bytes in kB or MB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


@dataclass(frozen=True, repr=False)
class Answer:
    """Base class: built from decoded JSON."""

    def __repr__(self) -> str:
        named = f"{type(self).__name__} {getattr(self, 'id', '')}".strip()
        return f"<{named}: {self}>"

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        names = [field.name for field in fields(cls) if field.name in data]
        return cls(**{name: _value(name, data[name]) for name in names})


@dataclass(frozen=True, repr=False)
class Problem(Answer):
    """An RFC 9457 problem: why a request was rejected or a job failed."""

    type: str
    title: str
    status: int
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}" if self.detail else self.title


@dataclass(frozen=True, repr=False)
class Progress(Answer):
    """Progress of a job; `tiles` is 0 until the picture has been decoded."""

    tiles_done: int = 0
    tiles: int = 0

    def __str__(self) -> str:
        return f"{self.tiles_done} of {self.tiles} tiles"


@dataclass(frozen=True, repr=False)
class Result(Answer):
    """A finished picture and how it was computed."""

    format: str
    width: int
    height: int
    size: int
    """Bytes."""
    sha256: str
    model: str
    checkpoint: str
    """SHA-256 of the checkpoint file."""
    device: str
    precision: str
    seconds: Mapping[str, float]
    """Time per stage."""
    warnings: tuple[str, ...]
    expires_at: datetime
    branches: tuple[str, ...]
    previews: tuple[str, ...] = ()
    invented: float | None = None
    """Share of the fine detail that is invented, 0 to 1; None: not known."""

    def __str__(self) -> str:
        return f"{self.format} of {self.width} x {self.height}, {readable(self.size)}"


@dataclass(frozen=True, repr=False)
class Job(Answer):
    """The current state of a job. `print` shows its progress on a short line."""

    id: str
    state: str
    """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
    queue_position: int | None = None
    """Number of jobs before it in the queue."""
    starts_in_seconds: int | None = None
    progress: Progress = Progress()
    result: Result | None = None
    failure: Problem | None = None

    @property
    def ended(self) -> bool:
        return self.state in {"succeeded", "failed", "cancelled"}

    def __str__(self) -> str:
        parts: list[object] = [self.state]
        if self.queue_position:
            parts.append(f"{self.queue_position} before it")
        if self.starts_in_seconds:
            parts.append(f"starts in {self.starts_in_seconds} s")
        if self.state == "running" and self.progress.tiles:
            parts.append(self.progress)
        parts += [part for part in (self.result, self.failure) if part]
        return ", ".join(map(str, parts))


@dataclass(frozen=True, repr=False)
class Batch(Answer):
    """The current state of a batch."""

    id: str
    state: str
    """`unpacking`, `running`, `finished` or `failed`."""
    counts: Mapping[str, int]
    """Number of its files by state; empty until it is unpacked."""
    failure: Problem | None = None

    def __str__(self) -> str:
        counts = [f"{count} {state}" for state, count in self.counts.items()]
        return ", ".join(map(str, [self.state, *counts, *filter(None, [self.failure])]))


class ClientError(Exception):
    """Base class: there is no result."""


class Unreachable(ClientError):
    """The service did not respond in time."""


class UnexpectedAnswer(ClientError):
    """The address is not that of a GDSR service."""


class Refused(ClientError):
    """The service rejected the request; see `problem`."""

    def __init__(self, problem: Problem, *, pause: float = 0.0) -> None:
        """`pause`: the seconds after which the service asks for a retry."""
        super().__init__(str(problem))
        self.problem, self.pause = problem, pause


class JobLost(ClientError):
    """The job failed, was cancelled or was deleted."""


class DownloadBroken(ClientError):
    """The download is incomplete or corrupted."""


#: How fields are read that are not plain values.
_READERS: Mapping[str, Callable[[Any], object]] = {
    "progress": Progress.of,
    "result": Result.of,
    "failure": Problem.of,
    "expires_at": datetime.fromisoformat,
}


def _value(name: str, value: Any) -> object:
    if value is not None and name in _READERS:
        return _READERS[name](value)
    return tuple(value) if isinstance(value, list) else value


A = TypeVar("A", bound=Answer)


def decoded(kind: type[A], *documents: bytes | str) -> A:
    """Read JSON objects; the fields of later ones replace those of earlier ones.

    Raises:
        UnexpectedAnswer: a document is no JSON object, or a field is missing.
    """
    data: dict[str, Any] = {}
    try:
        for document in documents:
            data |= json.loads(document)
        return kind.of(data)
    except (AttributeError, KeyError, TypeError, ValueError) as unfit:
        name = kind.__name__.lower()
        raise UnexpectedAnswer(f"not the {name} of a GDSR service ({unfit})") from None
