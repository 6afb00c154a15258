"""Clients for server-sent events: one stream at a time, or thousands."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True, kw_only=True)
class Event:
    name: str
    id: str
    data: Any
    retry: str


def event_of(lines: Iterable[str]) -> Event | None:
    """Parse the lines of one event; None for a comment."""
    fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
    if not fields:
        return None
    return Event(
        name=fields["event"],
        id=fields.get("id", ""),
        data=json.loads(fields["data"]),
        retry=fields.get("retry", ""),
    )


@contextmanager
def watching(http: httpx2.Client, job_id: str, *, after: str = "") -> Iterator[Iterator[Event]]:
    """Yield the events of a job as they arrive."""
    headers = {"Last-Event-ID": after} if after else {}
    with http.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")

        def events() -> Iterator[Event]:
            lines: list[str] = []
            for line in response.iter_lines():
                if line:
                    lines.append(line)
                    continue
                event = event_of(lines)
                lines.clear()
                if event is not None:
                    yield event

        yield events()


async def watch(host: str, port: int, job_id: str) -> AsyncIterator[Event]:
    """Yield a job's events from a bare socket, cheap enough for thousands of streams."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /jobs/{job_id}/events HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split(b"\r\n", 1)[0].endswith(b"200 OK"), head
        while True:
            try:
                block = await reader.readuntil(b"\n\n")
            except asyncio.IncompleteReadError:
                return
            event = event_of(block.decode().strip().splitlines())
            if event is not None:
                yield event
    finally:
        writer.close()
