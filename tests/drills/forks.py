"""Compares a child process for each job with one process for all: cost, leaks and survival.

PYTHONPATH=.:tests .venv/bin/python tests/drills/forks.py
"""

import gc
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from workers.contract.images.formats import ResultFormat
from workers.jobs.allocator import prepare_allocator
from workers.pictures.decode import decode
from workers.pictures.encode import encode
from workers.pictures.opening import load_codecs
from workers.pictures.picture import Picture
from workers.pictures.warm_up import warm_up

JOBS = 100
SIDE = 256
#: Pixels that no other picture has.
SECRET = bytes(range(11, 203, 3))


def write_secret(file: Path) -> None:
    """Write a PNG whose decoded pixels are easy to find in memory."""
    row = np.frombuffer((SECRET * (3 * SIDE // len(SECRET) + 1))[: 3 * SIDE], np.uint8)
    Image.fromarray(np.tile(row.reshape(1, SIDE, 3), (SIDE, 1, 1))).save(file, "PNG")


def job(picture: bytes) -> None:
    """Decode a picture, enlarge it four times and encode it, as a job does."""
    small = decode(picture, max_pixels=SIDE * SIDE, frame=0)
    large = Picture(colour=small.colour.repeat(4, axis=0).repeat(4, axis=1))
    encode(large, format=ResultFormat.PNG, quality=90)


def in_a_child(work: Callable[[], None]) -> int:
    """Run a warm-up and the work in a child, as a job worker does; return its wait status."""
    pid = os.fork()
    if pid == 0:
        warm_up()
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def per_job(work: Callable[[], object]) -> float:
    """CPU milliseconds of one job."""
    began = cpu()
    for _ in range(JOBS):
        work()
    return 1000 * (cpu() - began) / JOBS


def leftovers() -> int:
    """Number of copies of the secret pixels in this process's memory."""
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:  # noqa: PTH123
        for line in maps:
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if area is None or "[v" in line:
                continue
            start, end = (int(edge, 16) for edge in area.groups())
            memory.seek(start)
            try:
                content = memory.read(end - start)
            except OSError:
                continue
            found += content.count(SECRET + SECRET[:1])
    return found


def seconds_until_ended(kill_after: float) -> float:
    """Seconds that a child lives that hangs in C code and is killed after `kill_after` seconds."""
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        signal.alarm(1)  # Python runs its handler only once the C code returns
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        re.match(r"(a+)+$", "a" * 60 + "b")
    time.sleep(kill_after)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return time.monotonic() - began


def main() -> None:
    """Measure both ways and print the results."""
    load_codecs()
    prepare_allocator()
    gc.collect()
    gc.freeze()
    plain = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:  # written in a child: this process never holds it
        in_a_child(lambda: write_secret(Path(folder, "secret.png")))
        secret = Path(folder, "secret.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 10, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(noise).save(plain, "PNG")
    forked = per_job(lambda: in_a_child(lambda: job(plain.getvalue())))

    def look() -> None:
        os._exit(min(leftovers(), 255))

    pattern = os.waitstatus_to_exitcode(in_a_child(look))  # copies of the search pattern itself
    in_a_child(lambda: job(secret))
    seen_forked = os.waitstatus_to_exitcode(in_a_child(look)) - pattern
    ended = seconds_until_ended(3)
    job(plain.getvalue())
    long_lived = per_job(lambda: job(plain.getvalue()))
    job(secret)
    job(plain.getvalue())
    seen = leftovers() - pattern
    began = os.times()
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from workers.jobs.job_worker import load_codecs; load_codecs()",
        ],
        check=True,
    )
    cold = sum(os.times()[2:4]) - sum(began[2:4])
    sys.stdout.write(
        f"a job of {SIDE} x {SIDE}: {forked:.1f} ms of CPU in a child, {long_lived:.1f} ms in a "
        f"process that lives on\nrows of another job's pixels that a job finds in its memory: "
        f"{seen_forked} in a child, {seen} in a process that lives on\na codec that hangs: its "
        f"own SIGALRM after 1 s changed nothing, SIGKILL after 3 s ended it at {ended:.1f} s\n"
        f"to start a process anew: {1000 * cold:.0f} ms of CPU\n"
    )


if __name__ == "__main__":
    main()
