"""Asking all engines to look at their checkpoints again: a counter, and what each made of it.

An engine compares the counter with what it last followed; one that starts takes the counter as it
is, since it has just looked. There is no other message between service and engines.
"""

from datetime import timedelta
from typing import Literal

import redis
from pydantic import BaseModel, ConfigDict

_COUNTER = "gdsr:reload"
#: Field of a request that says that there is one.
_ASKED = "asked"
#: How long reports are kept.
EXPIRY = timedelta(hours=1)
#: How often an engine looks at the counter.
LOOK = timedelta(seconds=2)

Change = Literal["unchanged", "loaded", "replaced", "dropped", "kept"]


class ModelChange(BaseModel):
    """What became of one model on one engine."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    change: Change
    """`kept`: as it was, or not there, for the `reason`."""
    sha256: str | None = None
    """Of the checkpoint that it has now; null: it has none."""
    reason: str | None = None
    """Why the file was not taken."""


class EngineReport(BaseModel):
    """What one engine made of a request."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    models: tuple[ModelChange, ...] = ()
    error: str | None = None
    """Why it changed nothing at all."""


def ask(client: redis.Redis) -> int:
    """Ask all engines to look; the number of the request."""
    number = int(client.incr(_COUNTER))
    with client.pipeline() as pipe:
        pipe.hset(_key(number), _ASKED, 1)
        pipe.expire(_key(number), EXPIRY)
        pipe.execute()
    return number


def last_asked(client: redis.Redis) -> int:
    """The number of the newest request; 0: there was none."""
    return int(client.get(_COUNTER) or 0)


def report(client: redis.Redis, number: int, engine_id: str, report: EngineReport) -> None:
    """Say what an engine made of a request."""
    with client.pipeline() as pipe:
        pipe.hset(_key(number), engine_id, report.model_dump_json())
        pipe.expire(_key(number), EXPIRY)
        pipe.execute()


def reports(client: redis.Redis, number: int) -> dict[str, EngineReport] | None:
    """What was reported so far, by engine; None: there was no such request, or long ago."""
    found = client.hgetall(_key(number))
    if not found:
        return None
    said = {_text(engine_id): report for engine_id, report in found.items()}
    return {
        engine_id: EngineReport.model_validate_json(report)
        for engine_id, report in said.items()
        if engine_id != _ASKED
    }


def _key(number: int) -> str:
    return f"gdsr:reload:{number}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
