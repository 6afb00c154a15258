"""The kernel's counters show how a job's process allocates and reuses memory."""

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

_FORGOTTEN = """
import numpy as np
from workers.jobs.allocator import return_freed_memory, prepare_allocator

def pages():  # of this process's memory that are full of the value
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for area, access, *_, name in (line.split() for line in maps):
            if access.startswith("rw") and name in ("0", "[heap]"):
                start, end = (int(edge, 16) for edge in area.split("-"))
                memory.seek(start)
                for _ in range(start, end, 4096):
                    found += memory.read(4096) == bytes([171]) * 4096
    return found

prepare_allocator()
small = [np.full(20000, 171, np.uint8) for _ in range(200)]
large = np.full(3 * 1024**2, 171, np.uint8)
kept = small[::9]
del small, large
for array in kept:  # holes between memory that stays
    array[:] = 0
freed = pages()
return_freed_memory()
print(freed, pages())
"""


def flags(*arguments: str) -> set[str]:
    """Return the kernel's huge-page flag of a block: `hg`, see proc(5)."""
    command = [sys.executable, "-c", _ADVISED, *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "rd" in found.stdout.split()  # the area was found
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
    # The kernel decides whether to grant them: memory may be fragmented.
    assert [flags("prepared"), flags("plain")] == [{"hg"}, set()]


def test_the_next_job_finds_no_page_of_freed_memory_as_it_was() -> None:
    command = [sys.executable, "-c", _FORGOTTEN]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    freed, left = map(int, found.stdout.split())

    assert freed > 100
    assert left == 0
