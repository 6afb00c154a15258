"""Server-sent events (WHATWG HTML, 9.2.6) with one line of data each."""

from collections.abc import AsyncIterator

import httpx2


async def read_events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, str]]:
    """The fields of each event, none for a comment; ends where the connection breaks."""
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
