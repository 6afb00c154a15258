"""Storage usage and bytes freed, as recorded by the janitor for metrics."""

from collections.abc import Mapping

import redis

from workers.contract.record import Record

_FOUND, _FREED = "gdsr:blobs", "gdsr:blobs:freed"
#: Reasons for which the janitor removes a blob.
REASONS = ("expired", "quota", "orphan")


class BlobUsage(Record):
    """Storage usage after the janitor's last sweep."""

    blobs: int = 0
    size: int = 0
    """Bytes in use."""
    quota: int | None = None
    """The storage quota in bytes."""


def record(client: redis.Redis, usage: BlobUsage, freed: Mapping[str, int]) -> None:
    """Record the usage, and add freed bytes to the counters by reason."""
    with client.pipeline() as pipe:
        pipe.set(_FOUND, usage.model_dump_json())
        for reason, size in freed.items():
            pipe.hincrby(_FREED, reason, size)
        pipe.execute()


def last_usage(client: redis.Redis) -> BlobUsage | None:
    """The recorded usage; None before the first sweep."""
    found = client.get(_FOUND)
    return None if found is None else BlobUsage.model_validate_json(found)


def freed_bytes(client: redis.Redis) -> dict[str, int]:
    """Total bytes freed, by reason."""
    sizes = client.hmget(_FREED, list(REASONS))
    return {reason: int(size or 0) for reason, size in zip(REASONS, sizes, strict=True)}
