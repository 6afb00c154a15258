"""What the janitor last found in the blob store and what it ever freed, for whoever measures."""

from collections.abc import Mapping

import redis
from pydantic import BaseModel, ConfigDict

_FOUND, _FREED = "gdsr:blobs", "gdsr:blobs:freed"
#: Why the janitor removes a blob.
REASONS = ("expired", "quota", "orphan")


class BlobUsage(BaseModel):
    """The store after the janitor's last turn."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    blobs: int = 0
    size: int = 0
    """Bytes."""
    quota: int | None = None
    """Bytes that it may hold."""


def record(client: redis.Redis, usage: BlobUsage, freed: Mapping[str, int]) -> None:
    """Write what was found, and add bytes freed by reason to those before."""
    with client.pipeline() as pipe:
        pipe.set(_FOUND, usage.model_dump_json())
        for reason, size in freed.items():
            pipe.hincrby(_FREED, reason, size)
        pipe.execute()


def last_usage(client: redis.Redis) -> BlobUsage | None:
    """What was found last; None: no janitor has looked yet."""
    found = client.get(_FOUND)
    return None if found is None else BlobUsage.model_validate_json(found)


def freed_bytes(client: redis.Redis) -> dict[str, int]:
    """Bytes freed since the data was made, by reason."""
    found = {_text(reason): int(size) for reason, size in client.hgetall(_FREED).items()}
    return {reason: found.get(reason, 0) for reason in REASONS}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
