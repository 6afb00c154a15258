"""A worker host runs job workers according to cores and devices."""

import os
from collections.abc import Sequence

import pytest

from model.process import available_cpus
from workers.host.programs import default_job_workers


@pytest.mark.parametrize(
    ("devices", "share"), [(["cuda:0"], 1), (["cuda:0", "cuda:1"], 1), (["cpu"], 4)]
)
def test_job_workers_follow_the_cores_and_are_two_at_least(
    devices: Sequence[str], share: int
) -> None:
    assert default_job_workers(devices) == max(2, available_cpus() // share)


def test_a_gpu_is_not_given_more_than_it_can_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(256)))
    cores = available_cpus()  # as limited by a quota

    assert default_job_workers(["cuda:0"]) == max(2, min(cores, 24))
    assert default_job_workers(["cuda:0", "cuda:1"]) == max(2, min(cores, 48))
