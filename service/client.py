"""Python client for the service: typed, asynchronous or blocking, without FastAPI.

    with Client("http://127.0.0.1:8000") as client:
        client.upscale(Path("photo.jpg"), Path("large.png"), trade_off=0.5)

`Client` runs `AsyncClient` on an event loop in a thread. Connection failures and temporary errors
(503 with Retry-After) are retried until `patience` has passed. Uploads carry an `Idempotency-Key`,
so a retry never creates a second job.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
from anyio import Path as AsyncPath
from anyio import get_cancelled_exc_class, move_on_after, open_file, sleep
from anyio.from_thread import start_blocking_portal

from service.client_answers import (
    ClientError,
    DownloadBroken,
    Job,
    JobLost,
    Problem,
    Progress,
    Refused,
    Result,
    RetryLater,
    Unreachable,
    checked,
    job_of,
    parsed_events,
    promised_digest,
    query,
    unbroken,
)

__all__ = [
    "AsyncClient", "Client", "ClientError", "DownloadBroken", "Job", "JobLost", "Problem",
    "Progress", "Refused", "Result", "Unreachable",
]  # fmt: skip

#: Chunk size of an upload, in bytes.
_CHUNK = 256 * 1024
#: Seconds between two retries if the service does not specify them, and the maximum.
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
#: Seconds to wait, with `Prefer: wait`, for a derived result.
_WAIT = 30
#: Read timeout of the event stream: the service sends a comment every 15 s.
_READ_SECONDS = 45.0
#: Seconds that a cancelled caller waits for its job to be cancelled.
_CANCEL_SECONDS = 2.0

T = TypeVar("T")
#: The upload: a file, or its bytes.
Source = Path | bytes
#: Called with (bytes sent, total bytes).
Upload = Callable[[int, int], None]


class AsyncClient:
    """Asynchronous client for one service; use it with `async with`."""

    def __init__(self, url: str, *, api_key: str | None = None, patience: float = 60.0) -> None:
        """Create a client. `patience`: total seconds of retries for each call."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url, self._patience = url, patience
        self._http = httpx2.AsyncClient(
            base_url=url, headers=headers, timeout=httpx2.Timeout(_READ_SECONDS, connect=5.0)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def upscale(
        self,
        source: Source,
        target: Path,
        *,
        on_upload: Upload | None = None,
        on_change: Callable[[Job], None] | None = None,
        **options: object,
    ) -> Job:
        """Upload a picture, wait for the result and store it; `options` as in `submit`.

        If the call is cancelled while it waits, the job is cancelled too.

        Raises:
            ClientError: there is no result; the subclass says why.
            OSError: the file cannot be read, or the result cannot be written.
        """
        job = await self.submit(source, on_upload=on_upload, **options)
        try:
            async for latest in self.follow(job.id):
                job = latest
                if on_change:
                    on_change(job)
        except get_cancelled_exc_class():
            with move_on_after(_CANCEL_SECONDS, shield=True), suppress(ClientError):
                await self.discard(job.id)
            raise
        if job.state != "succeeded":
            raise JobLost(str(job.failure) if job.failure else f"job {job.id} was {job.state}")
        await self.download(job.id, target)
        return job

    async def submit(
        self, source: Source, *, on_upload: Upload | None = None, **options: object
    ) -> Job:
        """Upload a picture; returns its job. `options` are fields of `POST /upscale`, e.g.
        `trade_off`.

        Raises:
            Refused: the picture or an option was rejected.
            Unreachable: the service does not answer.
            OSError: the file cannot be read.
        """
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if isinstance(source, Path):
            options = {"name": source.name, **options}
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Idempotency-Key": uuid.uuid4().hex,
        }

        async def send() -> Job:
            answer = await self._http.post(
                "upscale",
                params=query(options),
                content=_pieces(source, size, on_upload),
                headers=headers,
            )
            return job_of(checked(answer))

        return await self._with_retries(send)

    async def job(self, job_id: str) -> Job:
        """The current state of a job.

        Raises:
            Refused: there is no such job.
            Unreachable: the service does not answer.
        """
        return job_of(await self._get(f"jobs/{job_id}"))

    async def follow(self, job_id: str) -> AsyncIterator[Job]:
        """Yield the job at every change until it has ended; reconnects if the connection breaks.

        Raises:
            JobLost: the job was deleted in the meantime.
            Refused: there is no such job.
            Unreachable: the service does not answer.
        """
        known = ""
        job: Job | None = None
        while job is None or not job.ended:
            async with self._events(job_id, known) as events:
                async for event in events:
                    known = event.get("id", known)
                    match event.get("event"):
                        case "state" | "done":
                            job = Job.model_validate_json(event["data"])
                            yield job
                        case "progress" if job is not None:
                            job = Job.model_validate(job.model_dump() | json.loads(event["data"]))
                            yield job
                        case "gone":
                            raise JobLost(f"job {job_id} was deleted")

    async def download(
        self,
        job_id: str,
        target: Path,
        *,
        map: Source | None = None,  # noqa: A002 - the word that the API uses
        **choices: object,
    ) -> None:
        """Store the result; `choices` such as `trade_off` need a job that kept its branches.

        `map`: an 8-bit grey PNG in the proportions of the result, whose levels are the trade-off
        of each pixel, from 0 (0) to 1 (255). The file is written atomically.

        Raises:
            Refused: there is no result, or it has expired.
            DownloadBroken: the download is incomplete or corrupted.
            Unreachable: the service does not answer.
            OSError: the file cannot be written.
        """

        content = await AsyncPath(map).read_bytes() if isinstance(map, Path) else map
        headers = {"Prefer": f"wait={_WAIT}"}
        if content is not None:
            headers["Content-Type"] = "image/png"

        async def fetch() -> Job | None:
            async with self._http.stream(
                "GET" if content is None else "POST",
                f"jobs/{job_id}/result",
                params=query(choices),
                content=content,
                headers=headers,
                follow_redirects=True,
            ) as answer:
                if answer.status_code != httpx2.codes.OK:
                    await answer.aread()
                    return job_of(checked(answer))  # not ready in time: poll its own job
                await _store(answer, target)
                return None

        pending = await self._with_retries(fetch)
        if pending is not None:
            async for _ in self.follow(pending.id):
                pass
            await self.download(pending.id, target)

    async def discard(self, job_id: str) -> None:
        """Cancel a job; a job that has ended is deleted with its pictures.

        Raises:
            Refused: there is no such job.
            Unreachable: the service does not answer.
        """

        async def delete() -> None:
            checked(await self._http.delete(f"jobs/{job_id}"))

        await self._with_retries(delete)

    async def models(self) -> list[dict[str, Any]]:
        """The response of `GET /models`.

        Raises:
            Unreachable: the service does not answer.
        """
        found: list[dict[str, Any]] = (await self._get("models")).json()
        return found

    async def limits(self) -> dict[str, Any]:
        """The response of `GET /limits`.

        Raises:
            Unreachable: the service does not answer.
        """
        found: dict[str, Any] = (await self._get("limits")).json()
        return found

    async def _get(self, path: str) -> httpx2.Response:
        async def get() -> httpx2.Response:
            return checked(await self._http.get(path))

        return await self._with_retries(get)

    @asynccontextmanager
    async def _events(
        self, job_id: str, known: str
    ) -> AsyncIterator[AsyncIterator[dict[str, str]]]:
        """The job's events after `known`, until the connection ends or breaks."""
        headers = {"Last-Event-ID": known} if known else {}

        async def connect() -> httpx2.Response:
            request = self._http.build_request("GET", f"jobs/{job_id}/events", headers=headers)
            answer = await self._http.send(request, stream=True)
            if answer.status_code != httpx2.codes.OK:
                await answer.aread()
            return checked(answer)

        answer = await self._with_retries(connect)
        try:
            yield unbroken(parsed_events(answer.aiter_lines()))
        finally:
            await answer.aclose()

    async def _with_retries(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call `attempt`; retry connection failures and temporary errors until `patience` has
        passed.
        """
        deadline = time.monotonic() + self._patience
        pause = _PAUSE
        while True:
            try:
                return await attempt()
            except httpx2.TransportError as failure:
                reason = str(failure) or type(failure).__name__
                error: ClientError = Unreachable(f"{self._url}: {reason}")
            except RetryLater as later:
                error, pause = Refused(later.problem), max(pause, later.seconds)
            if time.monotonic() + pause > deadline:
                raise error
            await sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class Client:
    """Blocking client for one service; use it with `with`."""

    def __init__(self, url: str, *, api_key: str | None = None, patience: float = 60.0) -> None:
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal())
        self._client = self._portal.call(
            partial(AsyncClient, url, api_key=api_key, patience=patience)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.call(self._client.__aexit__)
        self._stack.close()

    def upscale(
        self,
        source: Source,
        target: Path,
        *,
        on_upload: Upload | None = None,
        on_change: Callable[[Job], None] | None = None,
        **options: object,
    ) -> Job:
        """See `AsyncClient.upscale`."""
        return self._portal.call(
            partial(
                self._client.upscale, source, target,
                on_upload=on_upload, on_change=on_change, **options,
            )
        )  # fmt: skip

    def submit(self, source: Source, *, on_upload: Upload | None = None, **options: object) -> Job:
        """See `AsyncClient.submit`."""
        return self._portal.call(
            partial(self._client.submit, source, on_upload=on_upload, **options)
        )

    def job(self, job_id: str) -> Job:
        """See `AsyncClient.job`."""
        return self._portal.call(self._client.job, job_id)

    def follow(self, job_id: str) -> Iterator[Job]:
        """See `AsyncClient.follow`."""
        with self._portal.wrap_async_context_manager(_open(self._client.follow(job_id))) as jobs:
            while (job := self._portal.call(anext, jobs, None)) is not None:
                yield job

    def download(
        self,
        job_id: str,
        target: Path,
        *,
        map: Source | None = None,  # noqa: A002
        **choices: object,
    ) -> None:
        """See `AsyncClient.download`."""
        self._portal.call(partial(self._client.download, job_id, target, map=map, **choices))

    def discard(self, job_id: str) -> None:
        """See `AsyncClient.discard`."""
        self._portal.call(self._client.discard, job_id)

    def models(self) -> list[dict[str, Any]]:
        """See `AsyncClient.models`."""
        return self._portal.call(self._client.models)

    def limits(self) -> dict[str, Any]:
        """See `AsyncClient.limits`."""
        return self._portal.call(self._client.limits)


async def _pieces(source: Source, size: int, on_progress: Upload | None) -> AsyncIterator[bytes]:
    sent = 0
    if isinstance(source, bytes):
        for start in range(0, size, _CHUNK):
            yield source[start : start + _CHUNK]
            sent = min(size, start + _CHUNK)
            if on_progress:
                on_progress(sent, size)
        return
    async with await open_file(source, "rb") as file:
        while piece := await file.read(_CHUNK):
            yield piece
            sent += len(piece)
            if on_progress:
                on_progress(sent, size)


async def _store(answer: httpx2.Response, target: Path) -> None:
    """Write the download to a file; delete the file if size or digest do not match."""
    promised = promised_digest(answer)
    partial_file = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    digest = hashlib.sha256()
    try:
        async with await open_file(partial_file, "wb") as file:
            async for piece in answer.aiter_bytes():
                digest.update(piece)
                await file.write(piece)
        if promised is not None and digest.digest() != promised:
            raise DownloadBroken(f"the download of {answer.url.path} is incomplete or corrupted")
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)


@asynccontextmanager
async def _open(jobs: AsyncIterator[Job]) -> AsyncIterator[AsyncIterator[Job]]:
    """Close a generator on the event loop that it runs on."""
    try:
        yield jobs
    finally:
        await jobs.aclose()  # type: ignore[attr-defined]  # it is a generator
