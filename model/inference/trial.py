"""Timed trial of several ways to compute the same result; the times are cached in a file."""

import hashlib
import json
import operator
import time
import timeit
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from model.files import write_cache

_ROUNDS = 3

Name = TypeVar("Name", bound=str)
Turn = Callable[[Callable[[], Any]], Any]
"""Calls an action when the device is free for it, and returns its result or raises its exception;
`operator.call` on a device without other users.
"""


def seconds_of_each(
    functions: Mapping[Name, Callable[[], object]],
    *,
    about: object,
    folder: Path,
    turn: Turn = operator.call,
) -> dict[Name, float]:
    """Seconds of each function, the best of a few interleaved calls, or as cached in `folder`.

    Processor time is measured, which other programs hardly affect. `about` is everything that the
    times depend on, with a stable `repr`. Each call waits for its `turn`.
    """
    key = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
    path = folder / f"trial-{key}.json"
    try:
        kept = json.loads(path.read_text())
        return {name: float(kept[name]) for name in functions}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, or of another version: measured again
    for call in functions.values():
        turn(call)  # compiles, fills caches
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(_ROUNDS):
        for name, call in functions.items():
            timed = partial(timeit.timeit, call, timer=time.process_time, number=1)
            best[name] = min(best[name], turn(timed))
    write_cache(path, json.dumps(best).encode())
    return best
