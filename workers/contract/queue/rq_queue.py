"""RQ, used only to deliver ids.

A worker takes an id from a queue; everything else is in our records. RQ's own job record, which
contains a dotted path to import, is never read. There are two queues, so that small pictures do not
wait behind huge ones.
"""

from typing import Any, Self

import redis
from rq import Queue
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

SMALL, LARGE = "gdsr-small", "gdsr-large"
#: Queues of each worker class, in order of priority. A small job may delay a large one, slightly; a
#: large one would delay a small one by its whole run.
SERVED = {SMALL: (SMALL,), LARGE: (LARGE, SMALL)}


class Delivery(RQJob):
    """An id taken from a queue."""

    @classmethod
    def fetch(  # RQ's implementation would read a job of its own
        cls,
        id: str,  # noqa: A002 - RQ's name
        connection: redis.Redis | None = None,
        serializer: Any = None,
    ) -> Self:
        return cls(id, connection=connection, serializer=serializer)


def open_queue(name: str, client: redis.Redis) -> Queue:
    """Open one of the two RQ queues."""
    return Queue(name, connection=client, serializer=JSONSerializer, job_class=Delivery)
