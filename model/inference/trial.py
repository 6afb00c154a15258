"""Trial of several ways to compute the same, whose times are kept in a file."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

_ROUNDS = 3

Name = TypeVar("Name", bound=str)

log = logging.getLogger(__name__)


def seconds_of_each(
    contestants: Mapping[Name, Callable[[], object]], *, about: object, folder: Path
) -> dict[Name, float]:
    """Seconds of each function, the best of a few calls in turns; or those kept in `folder`.

    `about` is everything that they depend on, with a stable `repr`.
    """
    key = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
    path = folder / f"trial-{key}.json"
    try:
        kept = json.loads(path.read_text())
        return {name: float(kept[name]) for name in contestants}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, or of another version: measured again
    for call in contestants.values():
        call()  # compiles, fills caches
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(_ROUNDS):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(best))
    except OSError as failure:
        log.warning("cannot keep the times of a trial: %s", failure)
    return best
