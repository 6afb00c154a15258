"""How a job's process takes its memory, told by the kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_FORKED = """
import os, resource
import numpy as np
from workers.jobs.allocator import prepare_allocator

def take():  # more together than glibc keeps by itself
    blocks = [np.ones(3 * 1024**2, np.uint8) for _ in range(6)]

prepare_allocator()
if os.fork() == 0:
    take()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        take()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
    os._exit(0)
os.wait()
"""

_ADVISED = """
import sys
import numpy as np
from workers.jobs.allocator import prepare_allocator

if sys.argv[1] == "prepared":
    prepare_allocator()
block = np.ones(3 * 1024**2, np.uint8)
middle = block.ctypes.data + block.nbytes // 2
inside = False
for line in open("/proc/self/smaps"):
    first, *rest = line.split()
    if "-" in first:
        start, end = (int(address, 16) for address in first.split("-"))
        inside = start <= middle < end
    elif inside and first == "VmFlags:":
        print(*rest)
"""


def flags(*arguments: str) -> set[str]:
    """The kernel's flags of the memory of a block: `hg` for huge pages, see proc(5)."""
    command = [sys.executable, "-c", _ADVISED, *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "rd" in found.stdout.split()  # it can be read, at least
    return {"hg"} & set(found.stdout.split())


def has_huge_pages() -> bool:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return enabled.exists() and "[never]" not in enabled.read_text()


def test_memory_that_a_job_frees_is_taken_again_without_faults() -> None:
    command = [sys.executable, "-c", _FORKED]
    found = subprocess.run(command, check=True, capture_output=True, text=True)

    assert int(found.stdout) < 3 * 1024**2 // os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not has_huge_pages(), reason="the kernel has no huge pages here")
def test_a_job_asks_for_memory_in_huge_pages() -> None:
    # Whether it is given them is the kernel's affair: memory may be scattered.
    assert [flags("prepared"), flags("plain")] == [{"hg"}, set()]
