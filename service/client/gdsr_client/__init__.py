"""Client of a GDSR service: typed, blocking or asynchronous.

    with Client("http://127.0.0.1:8000") as client:
        client.upscale("photo.jpg", "large.png", trade_off=0.5, on_change=print)

Connection failures and temporary errors (503 with Retry-After) are retried until `patience` has
passed. Uploads carry an `Idempotency-Key`, so a retry never creates a second job.
"""

from gdsr_client.answers import (
    Batch,
    ClientError,
    DownloadBroken,
    Job,
    JobLost,
    Problem,
    Progress,
    Refused,
    Result,
    UnexpectedAnswer,
    Unreachable,
)
from gdsr_client.asynchronous import AsyncClient
from gdsr_client.blocking import Client
from gdsr_client.options import DerivedOptions, Options
from gdsr_client.transfers import Sent, Source

__all__ = [
    "AsyncClient", "Batch", "Client", "ClientError", "DerivedOptions", "DownloadBroken", "Job",
    "JobLost", "Options", "Problem", "Progress", "Refused", "Result", "Sent", "Source",
    "UnexpectedAnswer", "Unreachable",
]  # fmt: skip
