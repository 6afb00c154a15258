"""The asynchronous client."""

import json
import os
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Self, Unpack
from urllib.parse import quote

import httpx2
from anyio import get_cancelled_exc_class, move_on_after, sleep

from gdsr_client.answers import (
    A,
    Batch,
    ClientError,
    Job,
    JobLost,
    Refused,
    UnexpectedAnswer,
    Unreachable,
    decoded,
)
from gdsr_client.options import DerivedOptions, Options, query
from gdsr_client.retries import checked, pauses, retried
from gdsr_client.transfers import Sent, Source, pieces, size_of, store

#: Seconds to wait, with `Prefer: wait`, for a derived result.
_WAIT = 30
#: Seconds between two polls of a batch.
_PAUSE = 1.0
#: Read timeout of the event stream: the service sends a comment every 15 s.
_READ_SECONDS = 45.0
#: Seconds that a cancelled caller waits for its job to be cancelled.
_CANCEL_SECONDS = 2.0


class AsyncClient:
    """Asynchronous client for one service; use it with `async with`.

    Every method raises `Refused` if the service rejects the request, for example because there is
    no such job, and `Unreachable` if it does not answer; both are kinds of `ClientError`.
    """

    def __init__(self, url: str, *, api_key: str | None = None, patience: float = 60.0) -> None:
        """Create a client. `patience`: total seconds of retries for each call. White space around
        `api_key`, as in a file, is removed.

        Raises:
            Unreachable: `url` is not valid.
            ValueError: `api_key` cannot be sent in a header.
        """
        key = (api_key or "").strip()
        if not re.fullmatch("[!-~]*", key):
            raise ValueError("the API key is not one line of visible ASCII characters")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url, self._patience = url, patience
        self._retried = partial(retried, url=url, patience=patience)
        # Calls wait for a free connection: following a job occupies one until the job ends.
        timeout = httpx2.Timeout(_READ_SECONDS, connect=5.0, pool=None)
        try:
            self._http = httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout)
        except httpx2.InvalidURL as wrong:
            raise Unreachable(f"{url}: {wrong}") from None

    def __repr__(self) -> str:
        return f"<AsyncClient {self._url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def upscale(
        self,
        source: Source,
        target: str | os.PathLike[str],
        *,
        on_upload: Callable[[Sent], None] | None = None,
        on_change: Callable[[Job], Awaitable[None] | None] | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Upload a picture, wait for the result and store it in a file.

        `on_upload` is called as the upload proceeds, `on_change` at every change of the job; both
        may be `print`, and `on_change` a coroutine function. `options` are the fields of
        `POST /upscale`; the file is a PNG, whatever its name, unless `format` is given. If the
        call is cancelled while it waits, the job is cancelled too.

        Raises:
            ClientError: there is no result; the subclass says why.
            OSError: the file cannot be read, or the result cannot be written.
        """
        job = await self.submit(source, on_upload=on_upload, **options)
        try:
            async for latest in self.follow(job.id):
                job = latest
                awaitable = on_change(job) if on_change else None
                if awaitable is not None:
                    await awaitable
        except get_cancelled_exc_class():
            with move_on_after(_CANCEL_SECONDS, shield=True), suppress(ClientError):
                await self.discard(job.id)
            raise
        if job.state != "succeeded":
            raise JobLost(str(job.failure) if job.failure else f"job {job.id} was {job.state}")
        await self.download(job.id, target)
        return job

    async def submit(
        self,
        source: Source,
        *,
        on_upload: Callable[[Sent], None] | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Upload a picture; returns its job.

        Raises:
            OSError: the file cannot be read.
        """
        named: dict[str, object] = {}
        if not isinstance(source, bytes):
            # A name on a disk may be of any bytes.
            named["name"] = os.fsencode(Path(source).name).decode(errors="replace")
        return decoded(Job, await self._send("upscale", source, on_upload, {**named, **options}))

    async def submit_batch(
        self,
        archive: Source,
        *,
        on_upload: Callable[[Sent], None] | None = None,
        **options: Unpack[Options],
    ) -> Batch:
        """Upload a zip of pictures; returns its batch. `options` hold for each of them.

        Raises:
            OSError: the file cannot be read.
        """
        return decoded(Batch, await self._send("batches", archive, on_upload, options))

    async def _send(
        self,
        path: str,
        source: Source,
        on_upload: Callable[[Sent], None] | None,
        options: Mapping[str, object],
    ) -> bytes:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size_of(source)),
            "Idempotency-Key": uuid.uuid4().hex,
        }
        content = partial(pieces, source, on_upload)
        return await self._ask("POST", path, content, params=query(options), headers=headers)

    async def job(self, job_id: str) -> Job:
        """The current state of a job."""
        return decoded(Job, await self._ask("GET", _path("jobs", job_id)))

    async def follow(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Yield the job at every change until it has ended; reconnects if the connection breaks.

        Raises:
            JobLost: the job was deleted in the meantime.
            Unreachable: for `patience` seconds the service does not answer, or its streams break
                without a new event.
        """
        known = last_state = ""
        job: Job | None = None
        backoff, deadline = pauses(), 0.0
        while True:
            async with self._events(job_id, known) as events:
                async for event in events:
                    if not event or event.get("id", known) != known:
                        backoff, deadline = pauses(), 0.0
                    known = event.get("id", known)
                    match event.get("event"):
                        case "state" | "done":
                            last_state = event["data"]
                            job = decoded(Job, last_state)
                            yield job
                        case "progress" if job is not None:
                            job = decoded(Job, last_state, event["data"])
                            yield job
                        case "gone":
                            raise JobLost(f"job {job_id} was deleted")
            if job is not None and job.ended:
                return
            pause = next(backoff)
            deadline = deadline or monotonic() + self._patience
            if monotonic() + pause > deadline:
                raise Unreachable(f"{self._url}: the event stream of job {job_id} breaks")
            await sleep(pause)

    async def download(
        self,
        job_id: str,
        target: str | os.PathLike[str],
        *,
        map: Source | None = None,  # noqa: A002 - the word that the API uses
        **options: Unpack[DerivedOptions],
    ) -> None:
        """Store the result in a file; `options` such as `trade_off` need a job that kept its
        branches.

        `map`: an 8-bit grey PNG in the proportions of the result, whose levels are the trade-off
        of each pixel, from 0 (0) to 1 (255). The file is written atomically.

        Raises:
            DownloadBroken: the download is incomplete or corrupted.
            OSError: the file cannot be written.
        """
        content = None if map is None else b"".join([piece async for piece in pieces(map, None)])
        pending = await self._store(Job, _path("jobs", job_id), target, query(options), content)
        if pending is not None:
            async for _ in self.follow(pending.id):
                pass
            await self.download(pending.id, target)

    async def download_batch(
        self,
        batch_id: str,
        target: str | os.PathLike[str],
        **options: Unpack[DerivedOptions],
    ) -> None:
        """Store the zip of a batch's results in a file, once every job has ended. With `options`
        such as `trade_off`, the zip has results derived from these.

        Raises:
            DownloadBroken: the download is incomplete or corrupted.
            OSError: the file cannot be written.
        """
        wanted = query(options)
        while True:
            try:
                pending = await self._store(
                    Batch, _path("batches", batch_id), target, wanted, b"" if wanted else None
                )
            except Refused as refusal:
                if not refusal.problem.type.endswith("/batch-not-finished"):
                    raise
            else:
                if pending is None:
                    return
                batch_id, wanted = pending.id, {}  # the batch of derived results, if requested
            await sleep(_PAUSE)

    async def _store(
        self,
        kind: type[A],
        path: str,
        target: str | os.PathLike[str],
        options: Mapping[str, str],
        content: bytes | None,
    ) -> A | None:
        """Store a result, by POST if there is `content`; return its job or batch if pending."""
        headers = {"Prefer": f"wait={_WAIT}", **({"Content-Type": "image/png"} if content else {})}

        async def fetch() -> A | None:
            async with self._http.stream(
                "GET" if content is None else "POST",
                f"{path}/result",
                params=options,
                content=content,
                headers=headers,
                follow_redirects=True,
            ) as answer:
                if answer.status_code != httpx2.codes.OK:
                    await answer.aread()
                    return decoded(kind, checked(answer).content)
                await store(answer, Path(target))
                return None

        return await self._retried(fetch)

    async def discard(self, job_id: str) -> None:
        """Cancel a job; a job that has ended is deleted with its pictures."""
        path = _path("jobs", job_id)
        sent = False

        async def ask() -> None:
            nonlocal sent
            if sent:  # perhaps only the reply was lost, and a repeat would delete a cancelled job
                answer = await self._http.get(path)
                if answer.status_code == httpx2.codes.NOT_FOUND:
                    return
                if decoded(Job, checked(answer).content).state == "cancelled":
                    return
            sent = True
            checked(await self._http.delete(path))

        await self._retried(ask)

    async def models(self) -> list[dict[str, Any]]:
        """The response of `GET /models`."""
        found: list[dict[str, Any]] = await self._json("models")
        return found

    async def limits(self) -> dict[str, Any]:
        """The response of `GET /limits`."""
        found: dict[str, Any] = await self._json("limits")
        return found

    async def _ask(
        self,
        method: str,
        path: str,
        content: Callable[[], AsyncIterator[bytes] | None] = lambda: None,
        **more: Any,
    ) -> bytes:
        async def ask() -> bytes:
            answer = await self._http.request(method, path, content=content(), **more)
            return checked(answer).content

        return await self._retried(ask)

    async def _json(self, path: str) -> Any:
        try:
            return json.loads(await self._ask("GET", path))
        except ValueError as failure:
            raise UnexpectedAnswer(f"{self._url}: not a GDSR service ({failure})") from None

    @asynccontextmanager
    async def _events(
        self, job_id: str, known: str
    ) -> AsyncIterator[AsyncIterator[dict[str, str]]]:
        """The job's events after `known`, until the connection ends or breaks."""
        headers = {"Last-Event-ID": known} if known else {}

        async def connect() -> httpx2.Response:
            request = self._http.build_request(
                "GET", f"{_path('jobs', job_id)}/events", headers=headers
            )
            answer = await self._http.send(request, stream=True)
            if answer.status_code != httpx2.codes.OK:
                await answer.aread()
            return checked(answer)

        async with aclosing(await self._retried(connect)) as answer:
            yield _read_events(answer.aiter_lines())


def _path(kind: str, id_: str) -> str:
    """The path of a job or batch; an id from elsewhere may hold a slash or a question mark."""
    return f"{kind}/{quote(id_, safe='')}"


async def _read_events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, str]]:
    """The fields of each server-sent event (WHATWG HTML, 9.2.6) with one line of data, none for a
    comment; ends where the connection breaks.
    """
    event: dict[str, str] = {}
    try:
        async for line in lines:
            if not line:
                if event:
                    yield event
                event = {}
            elif line.startswith(":"):
                yield {}
            else:
                name, _, value = line.partition(":")
                event[name] = value.removeprefix(" ")
    except httpx2.RequestError:
        return
