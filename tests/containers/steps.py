"""Helpers that run commands, report progress and fail with a reason."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class Skipped(Exception):
    """Raised when this machine cannot run the check; the message says why."""


class Failed(Exception):
    """Raised when a claim about the containers does not hold."""


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print the title of a step, and its duration at the end."""
    print(f"== {title}", flush=True)
    started = time.monotonic()
    yield
    print(f"   {time.monotonic() - started:.1f} s", flush=True)


def holds(claim: str, fact: object, shown: object = "") -> None:
    """Print a claim that holds.

    Raises:
        Failed: it does not.
    """
    if not fact:
        raise Failed(f"{claim}: {shown!r}")
    print(f"   ok: {claim}{f' ({shown})' if shown != '' else ''}", flush=True)


def wait_until(claim: str, look: Callable[[], object], *, seconds: float = 60) -> None:
    """Poll until the claim holds.

    Raises:
        Failed: it did not in time.
    """
    started = time.monotonic()
    while not (found := look()):
        if time.monotonic() - started > seconds:
            raise Failed(f"{claim}: not within {seconds:g} s; last seen {found!r}")
        time.sleep(0.5)
    holds(claim, fact=True, shown=f"after {time.monotonic() - started:.1f} s")


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    given: str | None = None,
    cwd: Path | None = None,
    ok: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command with its output caught.

    Raises:
        Failed: it failed, unless that is `ok=False`; with the end of what it said.
    """
    ended = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    if ok and ended.returncode:
        said = (ended.stdout + ended.stderr)[-4000:]
        raise Failed(
            f"{' '.join(map(str, command[:6]))} ... ended with {ended.returncode}:\n{said}"
        )
    return ended
