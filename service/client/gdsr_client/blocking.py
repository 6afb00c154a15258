"""The blocking client: the asynchronous one, on an event loop in a thread."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self, Unpack

from anyio.from_thread import start_blocking_portal

from gdsr_client.answers import Batch, Job
from gdsr_client.asynchronous import AsyncClient
from gdsr_client.options import DerivedOptions, Options
from gdsr_client.uploads import Sent, Source


class Client:
    """Blocking client for one service; use it with `with`. `AsyncClient` has the same methods."""

    def __init__(self, url: str, *, api_key: str | None = None, patience: float = 60.0) -> None:
        """See `AsyncClient`."""
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._client = self._portal.call(
                partial(AsyncClient, url, api_key=api_key, patience=patience)
            )
            self._stack = stack.pop_all()

    def __repr__(self) -> str:
        return repr(self._client).replace("Async", "", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.call(self._client.__aexit__)
        self._stack.close()

    def upscale(
        self,
        source: Source,
        target: str | os.PathLike[str],
        *,
        on_upload: Callable[[Sent], None] | None = None,
        on_change: Callable[[Job], None] | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """See `AsyncClient.upscale`."""
        return self._portal.call(
            partial(
                self._client.upscale, source, target,
                on_upload=on_upload, on_change=on_change, **options,
            )
        )  # fmt: skip

    def submit(
        self,
        source: Source,
        *,
        on_upload: Callable[[Sent], None] | None = None,
        **options: Unpack[Options],
    ) -> Job:
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
        target: str | os.PathLike[str],
        *,
        map: Source | None = None,  # noqa: A002
        **options: Unpack[DerivedOptions],
    ) -> None:
        """See `AsyncClient.download`."""
        self._portal.call(partial(self._client.download, job_id, target, map=map, **options))

    def submit_batch(
        self,
        archive: Source,
        *,
        on_upload: Callable[[Sent], None] | None = None,
        **options: Unpack[Options],
    ) -> Batch:
        """See `AsyncClient.submit_batch`."""
        return self._portal.call(
            partial(self._client.submit_batch, archive, on_upload=on_upload, **options)
        )

    def download_batch(
        self,
        batch_id: str,
        target: str | os.PathLike[str],
        **options: Unpack[DerivedOptions],
    ) -> None:
        """See `AsyncClient.download_batch`."""
        self._portal.call(partial(self._client.download_batch, batch_id, target, **options))

    def discard(self, job_id: str) -> None:
        """See `AsyncClient.discard`."""
        self._portal.call(self._client.discard, job_id)

    def models(self) -> list[dict[str, Any]]:
        """See `AsyncClient.models`."""
        return self._portal.call(self._client.models)

    def limits(self) -> dict[str, Any]:
        """See `AsyncClient.limits`."""
        return self._portal.call(self._client.limits)


@asynccontextmanager
async def _open(jobs: AsyncIterator[Job]) -> AsyncIterator[AsyncIterator[Job]]:
    """Close a generator on the event loop that it runs on."""
    try:
        yield jobs
    finally:
        await jobs.aclose()  # type: ignore[attr-defined]  # it is a generator
