"""What a job's process takes of memory, in faults for pages, told by the kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_FORKED = """
import os, resource, sys
import numpy as np
from workers.heap import prepare_heap

def faults(size, times):
    '''That a forked process has when it takes and frees so much, so often.'''
    reader, writer = os.pipe()
    if os.fork() == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            np.ones(size, np.uint8)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        os.write(writer, str(after - before).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reader, 32))

np.ones(8 * 1024**2, np.uint8)  # glibc adapts to what has been freed
if sys.argv[1] == "prepared":
    prepare_heap()
print(faults(int(sys.argv[2]), int(sys.argv[3])))
"""


def faults(*arguments: str) -> int:
    command = [sys.executable, "-c", _FORKED, *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(found.stdout)


def has_huge_pages() -> bool:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return enabled.exists() and "[never]" not in enabled.read_text()


def test_memory_that_a_job_frees_is_taken_again_without_faults() -> None:
    once, often = (faults("prepared", str(3 * 1024**2), times) for times in ("1", "20"))

    assert often - once < 3 * 1024**2 // os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not has_huge_pages(), reason="the kernel has no huge pages here")
def test_a_job_takes_memory_in_huge_pages() -> None:
    # Few of those of 4 KiB: the kernel may have to fall back to them where memory is scattered.
    assert faults("prepared", str(3 * 1024**2), "1") < faults("plain", str(3 * 1024**2), "1") / 2
