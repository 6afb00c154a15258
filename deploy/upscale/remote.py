"""`gdsr-upscale --server`: sends pictures to a service, a few at a time, and stores the results."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from gdsr_client import AsyncClient, ClientError, Job, Refused
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from deploy.upscale.plan import Made, Step, store, tell

#: Seconds to wait for the first response of the service; later requests wait as usual.
_FIRST_TIMEOUT_SECONDS = 3.0
#: Concurrent pictures, so that network and workers overlap.
_CONCURRENT = 4


def upscale_remotely(url: str, steps: Sequence[Step], options: Mapping[str, Any]) -> list[Made]:
    """Process all steps on the service at `url`; failures are reported and left out.

    Ctrl-C cancels pending jobs there too.

    Raises:
        ValueError: there is no answer, or not that of a GDSR service.
    """
    try:
        return anyio.run(_upscale_all, url, steps, options)
    except Refused as refusal:
        raise ValueError(f"{url}: {refusal}") from None
    except ClientError as failure:
        raise ValueError(failure) from None


async def _upscale_all(url: str, steps: Sequence[Step], options: Mapping[str, Any]) -> list[Made]:
    async with AsyncClient(url, patience=_FIRST_TIMEOUT_SECONDS) as client:
        await client.limits()
    console = Console(stderr=True)
    name = TextColumn("{task.description}", markup=False)
    columns = name, BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[state]}")
    made: list[Made] = []
    room = anyio.CapacityLimiter(_CONCURRENT)
    with Progress(*columns, console=console) as progress:
        async with AsyncClient(url, api_key=os.environ.get("GDSR_API_KEY")) as client:

            async def one(step: Step) -> None:
                async with room:
                    task = progress.add_task(Path(step.name).name, total=None, state="sending")
                    shown = partial(_show, progress, task)
                    try:
                        job = await _upscale(client, step, shown, options)
                    except (ClientError, OSError) as failure:
                        progress.stop_task(task)
                        tell(console, step, failure, style="red")
                        return
                    if job.result is not None:
                        made.append(Made(job.result.width, job.result.height, job.result.size))
                        for warning in job.result.warnings:
                            tell(console, step, warning)

            async with anyio.create_task_group() as tasks:
                for step in steps:
                    tasks.start_soon(one, step)
    return made


async def _upscale(
    client: AsyncClient, step: Step, shown: Callable[[Job], None], options: Mapping[str, Any]
) -> Job:
    step_options = {**options, "format": step.format}
    if step.target is not None:
        step.target.parent.mkdir(parents=True, exist_ok=True)
        return await client.upscale(step.source, step.target, on_change=shown, **step_options)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "result"
        job = await client.upscale(step.source, target, on_change=shown, **step_options)
        store(None, target.read_bytes())
        return job


def _show(progress: Progress, task: TaskID, job: Job) -> None:
    waiting = job.state == "queued" and job.queue_position
    progress.update(
        task,
        completed=job.progress.tiles_done,
        total=job.progress.tiles or None,
        state=f"{job.queue_position} before it" if waiting else job.state,
    )
