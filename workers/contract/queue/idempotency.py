"""What an `Idempotency-Key` stands for: one job for all requests that carry it.

It is written in the very step that makes the job, and lasts for a day. Of several requests that
carry it at once each may store its picture; the step lets one of them make the job.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta

import redis

from workers.contract.errors import IdempotencyKeyReused
from workers.contract.queue.connection import retry_once

#: How long a key stands for its job.
LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A key, what was sent with it, and the job that is to come of it."""

    owner: str
    """Whose key it is; others may use the same word."""
    key: str
    fingerprint: str
    """Of picture and options: another one under the same key is a mistake."""
    job_id: str

    @property
    def redis_key(self) -> str:
        """The key in Redis."""
        whose = hashlib.sha256(f"{self.owner} {self.key}".encode())  # a key has no space
        return f"gdsr:key:{whose.hexdigest()}"

    def write(self, pipe: "redis.client.Pipeline") -> None:
        """Write it, as part of the transaction that makes the job."""
        settled = True  # the release before asks for it
        text = {"fingerprint": self.fingerprint, "job_id": self.job_id, "settled": settled}
        pipe.set(self.redis_key, json.dumps(text), ex=LIFETIME)

    def existing(self, client: redis.Redis) -> str | None:
        """The job that the key stands for already; None: there is none.

        Raises:
            IdempotencyKeyReused: the key came with something else before.
        """
        found = retry_once(lambda: client.get(self.redis_key))
        if found is None:
            return None
        other = json.loads(found)
        if other["fingerprint"] != self.fingerprint:
            raise IdempotencyKeyReused
        return str(other["job_id"])
