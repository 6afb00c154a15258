"""Errors of the client."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdsr_client.answers import Problem


class ClientError(Exception):
    """Base class: there is no result."""


class Unreachable(ClientError):
    """The service does not answer, or not in time."""


class UnexpectedAnswer(ClientError):
    """Something answers at the address, but not as a GDSR service does."""


class Refused(ClientError):
    """The service rejected the request; see `problem`."""

    def __init__(self, problem: "Problem") -> None:
        super().__init__(str(problem))
        self.problem = problem


class JobLost(ClientError):
    """The job failed, was cancelled or was deleted."""


class DownloadBroken(ClientError):
    """The download is incomplete or corrupted."""
