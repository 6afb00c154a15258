"""Reload requests for all engines: a counter, and the report of each engine.

An engine compares the counter with the last request that it processed; a starting engine takes the
counter as it is, since it has just read the files. There are no other messages between service and
engines.
"""

from datetime import timedelta
from typing import Literal

import redis
from pydantic import ConfigDict

from workers.contract.queue.connection import as_text
from workers.contract.record import Record

_COUNTER = "gdsr:reload"
#: Field that marks the existence of a request.
_ASKED = "asked"
#: How long reports are kept.
EXPIRY = timedelta(hours=1)
#: Polling interval of the counter.
POLL_INTERVAL = timedelta(seconds=2)

Change = Literal["unchanged", "loaded", "replaced", "dropped", "kept"]


class ModelChange(Record):
    """Reload result of one model on one engine."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    change: Change
    """`kept`: unchanged, or missing, for the `reason`."""
    sha256: str | None = None
    """SHA-256 of the checkpoint in use; null: none."""
    reason: str | None = None
    """Why the file was rejected."""


class EngineReport(Record):
    """Reload results of one engine."""

    models: tuple[ModelChange, ...] = ()
    error: str | None = None
    """Why the engine changed nothing."""


def request_reload(client: redis.Redis) -> int:
    """Request a reload of all engines; returns the number of the request."""
    number = int(client.incr(_COUNTER))
    _write(client, number, _ASKED, "1")
    return number


def last_request(client: redis.Redis) -> int:
    """Number of the latest request; 0: none."""
    return int(client.get(_COUNTER) or 0)


def report(client: redis.Redis, number: int, engine_id: str, report: EngineReport) -> None:
    """Store the report of an engine for a request."""
    _write(client, number, engine_id, report.model_dump_json())


def reports(client: redis.Redis, number: int) -> dict[str, EngineReport] | None:
    """The reports so far, by engine; None if the request does not exist or has expired."""
    found = client.hgetall(_key(number))
    if not found:
        return None
    return {
        engine_id: EngineReport.model_validate_json(report)
        for name, report in found.items()
        if (engine_id := as_text(name)) != _ASKED
    }


def _write(client: redis.Redis, number: int, field: str, value: str) -> None:
    with client.pipeline() as pipe:
        pipe.hset(_key(number), field, value)
        pipe.expire(_key(number), EXPIRY)
        pipe.execute()


def _key(number: int) -> str:
    return f"gdsr:reload:{number}"
