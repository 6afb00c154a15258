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
from workers.contract.queue.connection import asked_twice

#: How long a key stands for its job.
LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A key, what was sent with it, and the job that is to come of it."""

    owner: str
    """Whose key it is; others may use the same word."""
    key: str
    fingerprint: str
    """Of picture and options: another one under the same key is a mistake."""
    job_id: str

    @property
    def place(self) -> str:
        """The key in Redis."""
        whose = hashlib.sha256(f"{self.owner} {self.key}".encode())  # a key has no space
        return f"gdsr:key:{whose.hexdigest()}"

    def settle(self, pipe: "redis.client.Pipeline") -> None:
        """Write it, as part of the transaction that makes the job."""
        settled = True  # the release before asks for it
        text = {"fingerprint": self.fingerprint, "job_id": self.job_id, "settled": settled}
        pipe.set(self.place, json.dumps(text), ex=LIFETIME)

    def standing(self, client: redis.Redis) -> str | None:
        """The job that the key stands for already; None: there is none.

        Raises:
            IdempotencyKeyReused: the key came with something else before.
        """
        found = asked_twice(lambda: client.get(self.place))
        if found is None:
            return None
        other = json.loads(found)
        if other["fingerprint"] != self.fingerprint:
            raise IdempotencyKeyReused
        return str(other["job_id"])
