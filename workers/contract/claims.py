"""What an `Idempotency-Key` stands for: one job for all requests that carry it.

A key is claimed before its job is made (SET NX, for a minute, so that a service that dies in
between blocks nobody for long) and settled in the very transaction that makes the job (for a
day). In between, and after, every other request with that key sees the claim.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import redis

from workers.contract.errors import IdempotencyKeyBusy, IdempotencyKeyReused

#: How long a key stands for its job.
LIFETIME = timedelta(days=1)
#: How long a job may take to be made; only a service that died takes longer.
_CREATION = timedelta(minutes=1)

_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A key, what was sent with it, and the job that is to come of it."""

    owner: str
    """Whose key it is; others may use the same word."""
    key: str
    fingerprint: str
    """Of picture and options: another one under the same key is a mistake."""
    job_id: str

    def settle(self, pipe: "redis.client.Pipeline") -> None:
        """Make it last, as part of the transaction that makes the job."""
        pipe.set(self._place, self._text(settled=True), ex=LIFETIME)

    @contextmanager
    def held(self, client: redis.Redis) -> Iterator[str | None]:
        """Claim the key while the block makes the job; what raises in it frees the key again.

        Yields the job that the key stands for already, or None: it is to be made now.

        Raises:
            IdempotencyKeyReused: the key came with something else before.
            IdempotencyKeyBusy: its job is being made at this moment.
        """
        text = self._text(settled=False)
        if not client.set(self._place, text, nx=True, ex=_CREATION):
            yield self._standing(client)
            return
        try:
            yield None
        except BaseException:
            client.eval(_RELEASE, 1, self._place, text)
            raise

    def _standing(self, client: redis.Redis) -> str:
        found = client.get(self._place)
        if found is None:  # it went between two commands
            raise IdempotencyKeyBusy
        other: dict[str, Any] = json.loads(found)
        if other["fingerprint"] != self.fingerprint:
            raise IdempotencyKeyReused
        if not other["settled"]:
            raise IdempotencyKeyBusy
        return str(other["job_id"])

    @property
    def _place(self) -> str:
        whose = hashlib.sha256(f"{self.owner} {self.key}".encode())  # a key has no space
        return f"gdsr:key:{whose.hexdigest()}"

    def _text(self, *, settled: bool) -> str:
        return json.dumps(
            {"fingerprint": self.fingerprint, "job_id": self.job_id, "settled": settled}
        )
