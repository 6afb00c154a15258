"""Process setup for the network, before torch is imported.

OpenMP and torch's allocator read their environment variables only once, when torch is loaded. So
nothing here imports torch.
"""

import ctypes
import math
import os
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # from glibc's malloc.h
_C_INT_MAX = 2**31 - 1
_CGROUP_FILES = {
    "cpu": (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
    "memory": (("memory.max",), ("memory.limit_in_bytes",)),
}
"""Controller -> the files of a limit in version 2, and in version 1."""


def prepare_process(threads: int | None, *, cache: Path | None = None) -> None:
    """Set up threads, memory and compilation for the network.

    `threads` is the number for OpenMP; unset: OMP_NUM_THREADS, else `available_cpus`. Compiled
    kernels are cached in `cache`; unset: in `cache_folder`. Existing environment variables for
    waiting, allocation and TORCHINDUCTOR_CACHE_DIR take precedence.
    """
    # Spinning threads would take CPU time from the processes that decode and encode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((cache or cache_folder()) / "inductor"))
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # an older alias
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    _keep_freed_memory()


def cache_folder() -> Path:
    """Default folder for compiled kernels and calibrations."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdsr"


def available_cpus() -> int:
    """Number of CPUs available to this process: its affinity and its cgroup's quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cgroup_limit("cpu"))))


def available_memory() -> float:
    """Bytes of memory that this process may use: those of the host, or its cgroup's limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(physical, cgroup_limit("memory"))


def cgroup_limit(
    controller: str,
    membership: Path = Path("/proc/self/cgroup"),
    root: Path = Path("/sys/fs/cgroup"),
) -> float:
    """The limit of the cgroups of this process, versions 1 and 2, else infinity.

    In processors for the controller `cpu`, in bytes for `memory`.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    limit = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root
        elif controller in controllers.split(","):
            top = root / controller
        else:
            continue
        group = top / path.lstrip("/")
        # Limits of all ancestors apply. In a container the path may be that of the host, of which
        # only the root is visible.
        for folder in (group, *group.parents):
            limit = min(limit, _limit(folder, controller))
            if folder == top:
                break
    return limit


def _limit(folder: Path, controller: str) -> float:
    """The limit of one cgroup."""
    for names in _CGROUP_FILES[controller]:
        with suppress(OSError, ValueError):  # missing, or "max"
            limit, *period = map(
                int, " ".join((folder / name).read_text() for name in names).split()
            )
            return limit / sum(period or [1]) if limit > 0 else math.inf
    return math.inf


def _keep_freed_memory() -> None:
    """Configure glibc to keep freed memory instead of returning it to the kernel.

    The network's layers allocate and free tens of megabytes each. If returned, every page would be
    cleared and mapped again, which makes inference 25 % slower with one tile in a batch and 50 %
    with four. glibc reads its environment variables for this at program start, so mallopt is
    called.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    libc.mallopt(_M_MMAP_MAX, 0)  # allocate large blocks from the heap, not as separate mappings
    libc.mallopt(_M_TRIM_THRESHOLD, _C_INT_MAX)
    libc.mallopt(_M_ARENA_MAX, 1)  # heaps of other threads are limited to 64 MiB
