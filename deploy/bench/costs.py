"""CPU seconds per kind of process of a running `gdsr-up`, and Redis commands.

CPU time depends little on other load of the machine, unlike wall time.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from workers.contract.queue.connection import connect

#: Kind of process by a part of its command line; the first match counts.
_KINDS = {
    "valkey-server": "Redis",
    "workers.engine": "engine",
    "workers.jobs.job_worker": "job workers",
    "workers.jobs.janitor": "janitor",
    "workers": "supervisors",
    "service": "service",
    "deploy.local": "supervisors",
}


def costs(top: int) -> dict[str, float]:
    """CPU ms by kind of process, and Redis commands, of `gdsr-up` since its start.

    They are those of the process `top` and all its descendants; jobs run in children of the job
    workers.
    """
    spent = dict.fromkeys([*_KINDS.values(), "jobs"], 0.0)
    commands = 0
    for pid, kind, command in _processes(top):
        spent[kind] += 1000 * cpu_seconds(pid)
        if kind == "job workers":
            spent["jobs"] += 1000 * children_seconds(pid)
        if kind == "Redis":
            socket = re.search(r"unixsocket:(\S+)", command)  # in Valkey's process title
            url = f"unix://{socket[1]}" if socket else ""
            with connect(url, timeout=timedelta(seconds=5), retries=0) as client:
                commands += int(client.info("stats")["total_commands_processed"])
    ours = 1000 * sum(os.times()[:2])
    total = sum(spent.values())
    return {**spent, "clients": ours, "all but the clients": total, "Redis commands": commands}


def _processes(pid: int) -> Iterator[tuple[int, str, str]]:
    """A process and its descendants except jobs, with their kinds and commands."""
    command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    kind = next(name for part, name in _KINDS.items() if f"{part} " in command)
    yield pid, kind, command
    if kind != "job workers":
        for child in children(pid):
            yield from _processes(child)


def children(pid: int) -> list[int]:
    """The child processes of a process; none if it has ended."""
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def resident(top: int) -> dict[str, int]:
    """Resident bytes by kind of process, of the `gdsr-up` process `top` and below, without jobs."""
    found = dict.fromkeys(_KINDS.values(), 0)
    for pid, kind, _ in _processes(top):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        found[kind] += pages * os.sysconf("SC_PAGE_SIZE")
    return found


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process."""
    return sum(_times(pid)[:2])


def children_seconds(pid: int) -> float:
    """CPU seconds of the children of a process, including ended ones."""
    ended = sum(_times(pid)[2:])
    running = 0.0
    for child in children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            running += cpu_seconds(child)
    return ended + running


def _times(pid: int) -> tuple[float, ...]:
    """User and system seconds of a process, and those of its ended children: proc(5)."""
    fields = re.sub(r".*\)", "", Path(f"/proc/{pid}/stat").read_text()).split()
    return tuple(int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:15])
