"""`gdsr-upscale --server`: sends pictures to a service, a few at a time, and stores the results."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from service.client import AsyncClient, ClientError, Job, Unreachable

#: Seconds to wait for the first response of the service; later requests wait as usual.
_FIRST_ANSWER = 3.0
#: Concurrent pictures, so that network and workers overlap.
_TOGETHER = 4


def upscale_there(
    url: str, jobs: Sequence[tuple[Path, Path, str]], options: Mapping[str, Any]
) -> int:
    """Process each (source, target, format) on the service at `url`; returns the number of
    failures.

    Ctrl-C cancels pending jobs there too.

    Raises:
        ValueError: the service does not answer.
    """
    try:
        return anyio.run(_upscale_all, url, jobs, options)
    except Unreachable as failure:
        raise ValueError(failure) from None


async def _upscale_all(
    url: str, jobs: Sequence[tuple[Path, Path, str]], options: Mapping[str, Any]
) -> int:
    async with AsyncClient(url, patience=_FIRST_ANSWER) as client:
        await client.limits()
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    failed: list[Path] = []
    room = anyio.CapacityLimiter(_TOGETHER)
    with Progress(*columns, TextColumn("{task.fields[state]}"), console=console) as progress:
        async with AsyncClient(url, api_key=os.environ.get("GDSR_API_KEY")) as client:

            async def one(source: Path, target: Path, format_name: str) -> None:
                async with room:
                    task = progress.add_task(source.name, total=None, state="sending")
                    shown = partial(_show, progress, task)
                    try:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        job = await client.upscale(
                            source, target, on_change=shown, **{**options, "format": format_name}
                        )
                    except (ClientError, OSError) as failure:
                        failed.append(source)
                        progress.stop_task(task)
                        said, style = [str(failure)], "red"
                    else:
                        said, style = list(job.result.warnings) if job.result else [], ""
                for line in said:
                    console.print(f"{source}: {line}", style=style, highlight=False, soft_wrap=True)

            async with anyio.create_task_group() as tasks:
                for job in jobs:
                    tasks.start_soon(one, *job)
    return len(failed)


def _show(progress: Progress, task: TaskID, job: Job) -> None:
    waiting = job.state == "queued" and job.queue_position
    progress.update(
        task,
        completed=job.progress.tiles_done,
        total=job.progress.tiles or None,
        state=f"{job.queue_position} before it" if waiting else job.state,
    )
