"""Errors of the client."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdsr_client.answers import Problem


class ClientError(Exception):
    """Base class: there is no result."""


class Unreachable(ClientError):
    """The service did not respond in time."""


class UnexpectedAnswer(ClientError):
    """The address is not that of a GDSR service."""


class Refused(ClientError):
    """The service rejected the request; see `problem`."""

    def __init__(self, problem: "Problem") -> None:
        super().__init__(str(problem))
        self.problem = problem


class JobLost(ClientError):
    """The job failed, was cancelled or was deleted."""


class DownloadBroken(ClientError):
    """The download is incomplete or corrupted."""
