"""How a process that runs the network sets itself up, before torch is imported.

OpenMP and the CUDA allocator read their environment once, when torch loads them: after that it is
too late. So nothing here imports torch.
"""

import os
from pathlib import Path


def prepare_process(threads: int | None) -> None:
    pass


def available_cpus() -> int:
    return len(os.sched_getaffinity(0))
