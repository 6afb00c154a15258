"""When a job that waits will start, by the pixels before it and the speed of the engines."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from workers.contract.engines import EngineInfo


class Place(NamedTuple):
    """Where a job waits."""

    position: int
    """Jobs before it in its queue."""
    seconds: int | None
    """Until it starts, about; None: no engine runs. The same until something moves."""


def speed(engines: Sequence[EngineInfo]) -> float:
    """Input pixels a second of all engines together, each with its default model."""
    return sum(
        min(model.pixels_per_second.values())
        for engine in engines
        for model in engine.models
        if model.name == engine.default_model
    )


def places(
    queues: Sequence[Sequence[str]],
    *,
    waiting: Mapping[str, int],
    running: Sequence[int],
    rate: float,
) -> dict[str, Place]:
    """The place of each job in the queues, next first.

    Engines serve all queues in turn, so while jobs are before one in its queue, as many pixels of
    the other queues are computed as well. Jobs that run are half done on average.

    Args:
        queues: job ids.
        waiting: pixels by job id.
        running: pixels of the jobs that run.
        rate: pixels a second.
    """
    totals = [sum(waiting.get(job_id, 0) for job_id in queue) for queue in queues]
    found: dict[str, Place] = {}
    for number, queue in enumerate(queues):
        others = totals[:number] + totals[number + 1 :]
        before = 0
        for position, job_id in enumerate(queue):
            work = sum(running) / 2 + before + sum(min(before, other) for other in others)
            found[job_id] = Place(position, round(work / rate) if rate else None)
            before += waiting.get(job_id, 0)
    return found
