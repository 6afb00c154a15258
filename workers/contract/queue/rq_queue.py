"""RQ, of which we use the delivery of ids.

A worker takes an id from a queue, and all else stands in our records: RQ's own job, which imports
the dotted path that stands in Redis, is never read. Two queues: small pictures do not wait behind
huge ones.
"""

from typing import Any, Self

import redis
from rq import Queue
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

SMALL, LARGE = "gdsr-small", "gdsr-large"
#: Which queues the worker of each class serves: a later one while the earlier are empty. A small
#: job may delay a large one, by little; a large one would delay a small one by its whole run.
SERVED = {SMALL: (SMALL,), LARGE: (LARGE, SMALL)}


class Delivery(RQJob):
    """An id that came out of a queue."""

    @classmethod
    def fetch(  # RQ's would read a job of its own
        cls,
        id: str,  # noqa: A002 - RQ's name
        connection: redis.Redis | None = None,
        serializer: Any = None,
    ) -> Self:
        return cls(id, connection=connection, serializer=serializer)


def open_queue(name: str, client: redis.Redis) -> Queue:
    """One of the two RQ queues."""
    return Queue(name, connection=client, serializer=JSONSerializer, job_class=Delivery)
