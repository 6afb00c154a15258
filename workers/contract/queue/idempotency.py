"""Idempotency keys: all requests with the same key get the same job.

The key is written in the transaction that creates the job, and expires after a day. Concurrent
requests with the same key may each store their picture; the transaction lets one of them create the
job.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta

import redis

from workers.contract.errors import IdempotencyKeyReused
from workers.contract.queue.connection import retry_once, translated_redis_errors

#: Lifetime of an idempotency key.
LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """An idempotency key with the digest of its request and the id of the job to create."""

    owner: str
    """Owner of the key; keys of different owners are independent."""
    key: str
    fingerprint: str
    """Digest of picture and options: a different one with the same key is an error."""
    job_id: str

    @property
    def redis_key(self) -> str:
        return _redis_key(self.owner, self.key)

    def write(self, pipe: "redis.client.Pipeline") -> None:
        """Write the key, as part of the transaction that creates the job."""
        text = {"fingerprint": self.fingerprint, "job_id": self.job_id}
        pipe.set(self.redis_key, json.dumps(text), ex=LIFETIME)

    def existing(self, client: redis.Redis) -> str | None:
        """The job of an earlier request with the key; None if there is none.

        Raises:
            IdempotencyKeyReused: the key was used for a different request.
        """
        found = retry_once(lambda: client.get(self.redis_key))
        if found is None:
            return None
        other = json.loads(found)
        if other["fingerprint"] != self.fingerprint:
            raise IdempotencyKeyReused
        return str(other["job_id"])


def is_used(client: redis.Redis, owner: str, key: str) -> bool:
    """True if the key has a job already.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    with translated_redis_errors():
        return bool(client.exists(_redis_key(owner, key)))


def _redis_key(owner: str, key: str) -> str:
    whose = hashlib.sha256(f"{owner} {key}".encode())  # the key contains no space
    return f"gdsr:key:{whose.hexdigest()}"
