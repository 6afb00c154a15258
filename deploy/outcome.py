"""Of `gdsr-upscale`: stores results, and says in its last line what was made."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deploy.plan import Step


class Made(NamedTuple):
    """A result that was stored."""

    width: int
    height: int
    size: int
    """In bytes."""


def store(target: Path | None, data: bytes) -> None:
    """Write a file atomically, or to the standard output."""
    if target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def last_line(steps: Sequence[Step], made: Sequence[Made], *, seconds: float) -> str:
    """The last line: number of results, folder, size and time."""
    if not made:
        return f"made none of {len(steps):,} in {seconds:,.1f} s"
    megabytes = sum(one.size for one in made) / 1e6
    spent = f"{megabytes:,.{1 if megabytes >= 1 else 3}f} MB in {seconds:,.1f} s"
    if len(steps) == len(made) == 1:
        where = steps[0].target or "the standard output"
        return f"made {where}: {made[0].width:,} x {made[0].height:,}, {spent}"
    folders = [step.target.parent for step in steps if step.target]
    where = os.path.commonpath(folders) or "this folder"
    return f"made {len(made):,} of {len(steps):,} in {where}: {spent}"
