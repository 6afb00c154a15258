"""RQ, used only to deliver ids.

Everything else is in our records: RQ's own job record, which contains a dotted path to import, is
neither written nor read. There are two queues, so that small pictures do not wait behind huge ones.
"""

import redis
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.serializers import JSONSerializer

from workers.contract.queue.connection import as_text

SMALL, LARGE = "gdsr-small", "gdsr-large"
#: Queues of each worker class, in order of priority. A small job may delay a large one, slightly; a
#: large one would delay a small one by its whole run.
SERVED = {SMALL: (SMALL,), LARGE: (LARGE, SMALL)}


def open_queue(name: str, client: redis.Redis) -> Queue:
    """Open one of the two RQ queues."""
    return Queue(name, connection=client, serializer=JSONSerializer)


def next_task(client: redis.Redis, worker_class: str, *, seconds: int | None) -> str | None:
    """Take the next id for a worker class, after at most `seconds`; None if there is none."""
    keys = [open_queue(name, client).key for name in SERVED[worker_class]]
    try:
        found = Queue.lpop(keys, seconds, connection=client)
    except DequeueTimeout:
        return None
    return None if found is None else as_text(found[1])
