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
    quota = _cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(allowed, quota)))


def _cgroup_quota(membership: Path, root: Path) -> float:
    """The CPU quota of the cgroups of this process, versions 1 and 2, else infinity."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root
        elif "cpu" in controllers.split(","):
            top = root / "cpu"
        else:
            continue
        group = top / path.lstrip("/")
        # Limits of all ancestors apply. In a container the path may be that of the host, of which
        # only the root is visible.
        for folder in (group, *group.parents):
            quota = min(quota, _quota(folder))
            if folder == top:
                break
    return quota


def _quota(folder: Path) -> float:
    """The quota of one cgroup: a file of version 2, or two of version 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # missing, or "max"
            limit, period = map(
                int, " ".join((folder / name).read_text() for name in names).split()
            )
            return limit / period if limit > 0 else math.inf
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
