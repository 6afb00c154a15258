import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.process import available_cpus, available_memory, cgroup_limit


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_a_quota_of_cgroup_version_2_counts(tmp_path: Path) -> None:
    write(tmp_path, membership="0::/jobs/one\n")
    write(tmp_path / "root" / "jobs" / "one", cpu__max="150000 100000\n")

    assert cgroup_limit("cpu", tmp_path / "membership", tmp_path / "root") == 1.5


def test_the_tightest_quota_above_counts(tmp_path: Path) -> None:
    write(tmp_path, membership="0::/jobs/one\n")
    write(tmp_path / "root", cpu__max="max 100000\n")
    write(tmp_path / "root" / "jobs", cpu__max="100000 100000\n")
    write(tmp_path / "root" / "jobs" / "one", cpu__max="400000 100000\n")

    assert cgroup_limit("cpu", tmp_path / "membership", tmp_path / "root") == 1


def test_a_quota_of_cgroup_version_1_counts(tmp_path: Path) -> None:
    write(tmp_path, membership="9:cpu,cpuacct:/jobs\n3:memory:/other\n0::/\n")
    group = tmp_path / "root" / "cpu" / "jobs"
    write(group, cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n")

    assert cgroup_limit("cpu", tmp_path / "membership", tmp_path / "root") == 3


def test_a_container_that_sees_only_its_own_group_finds_its_quota(tmp_path: Path) -> None:
    write(tmp_path, membership="4:cpu:/docker/0123\n")
    top = tmp_path / "root" / "cpu"
    write(top, cpu__cfs_quota_us="200000\n", cpu__cfs_period_us="100000\n")

    assert cgroup_limit("cpu", tmp_path / "membership", tmp_path / "root") == 2


@pytest.mark.parametrize("limit", ["max 100000\n", "", "nonsense\n"])
def test_no_quota_is_no_limit(tmp_path: Path, limit: str) -> None:
    write(tmp_path, membership="0::/\n")
    write(tmp_path / "root", cpu__max=limit)

    assert cgroup_limit("cpu", tmp_path / "membership", tmp_path / "root") == math.inf
    assert cgroup_limit("cpu", tmp_path / "none", tmp_path / "root") == math.inf


@pytest.mark.parametrize(
    ("membership", "folder", "name"),
    [
        ("0::/jobs\n", "jobs", "memory__max"),
        ("3:memory:/jobs\n", "memory", "memory__limit_in_bytes"),
    ],
)
def test_a_limit_of_memory_counts(tmp_path: Path, membership: str, folder: str, name: str) -> None:
    write(tmp_path, membership=membership)
    write(tmp_path / "root" / folder, **{name: f"{2**30}\n"})

    assert cgroup_limit("memory", tmp_path / "membership", tmp_path / "root") == 2**30


def test_no_more_memory_is_available_than_the_host_has() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_there_is_at_least_one_processor_and_none_that_affinity_forbids() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


def in_fresh_process(code: str, **environment: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("threads", "environment", "expected"),
    [("3", {}, "3"), ("None", {"OMP_NUM_THREADS": "5"}, "5"), ("3", {"OMP_NUM_THREADS": "5"}, "3")],
)
def test_openmp_gets_the_threads_that_were_asked_for(
    threads: str, environment: dict[str, str], expected: str
) -> None:
    code = (
        "import os, sys; from model.process import prepare_process\n"
        f"prepare_process({threads}); assert 'torch' not in sys.modules\n"
        "print(os.environ['OMP_NUM_THREADS'])"
    )

    assert in_fresh_process(code, **environment) == expected


def test_torch_heeds_it() -> None:
    code = (
        "from model.process import prepare_process; prepare_process(1)\n"
        "import torch; print(torch.get_num_threads())"
    )

    assert in_fresh_process(code) == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_freed_memory_is_kept_for_the_next_layer() -> None:
    code = """
import ctypes, resource
from model.process import prepare_process
prepare_process(1)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def touch():
    block = libc.malloc(100 << 20)
    libc.memset(block, 1, 100 << 20)
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    assert int(in_fresh_process(code)) < 100
