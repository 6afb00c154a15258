"""The blocking client: the asynchronous one, on an event loop in a thread."""

import atexit
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from functools import partial, wraps
from typing import Concatenate, ParamSpec, Self, TypeVar

from anyio.from_thread import start_blocking_portal

from gdsr_client.answers import Job
from gdsr_client.asynchronous import AsyncClient

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Awaitable[T]],
) -> "Callable[Concatenate[Client, P], T]":
    """The method with the same parameters, called on the event loop."""

    @wraps(method)
    def call(self: "Client", /, *args: P.args, **named: P.kwargs) -> T:
        return self._result(partial(method, self._client, *args, **named))

    return call


class Client:
    """Blocking client for one service, with the methods of `AsyncClient`; use it with `with`."""

    upscale = _blocking(AsyncClient.upscale)
    submit = _blocking(AsyncClient.submit)
    submit_batch = _blocking(AsyncClient.submit_batch)
    job = _blocking(AsyncClient.job)
    download = _blocking(AsyncClient.download)
    download_batch = _blocking(AsyncClient.download_batch)
    discard = _blocking(AsyncClient.discard)
    models = _blocking(AsyncClient.models)
    limits = _blocking(AsyncClient.limits)

    def __init__(self, url: str, *, api_key: str | None = None, patience: float = 60.0) -> None:
        """See `AsyncClient`."""
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._client = self._portal.call(
                partial(AsyncClient, url, api_key=api_key, patience=patience)
            )
            stack.callback(self._portal.call, self._client.__aexit__)
            self._stack = stack.pop_all()
        atexit.register(self._stack.close)  # without `with`, the end of the program would hang

    def __repr__(self) -> str:
        return repr(self._client).replace("Async", "", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        atexit.unregister(self._stack.close)
        self._stack.close()

    def follow(self, job_id: str) -> Iterator[Job]:
        """See `AsyncClient.follow`."""
        # Closed on the event loop that it runs on.
        following = aclosing(self._client.follow(job_id))
        with self._portal.wrap_async_context_manager(following) as jobs:
            while (job := self._result(partial(anext, jobs, None))) is not None:
                yield job

    def _result(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call on the event loop; Ctrl-C cancels it there and waits for its end."""
        ended = threading.Event()

        async def run() -> T:
            try:
                return await call()
            finally:
                ended.set()

        future = self._portal.start_task_soon(run)
        try:
            return future.result()
        except KeyboardInterrupt:
            if future.cancel():
                ended.wait()
            raise
