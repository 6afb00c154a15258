"""Which programs a worker host runs."""

from collections.abc import Sequence

import pytest

from model.process import available_cpus
from workers.host import default_job_workers


@pytest.mark.parametrize(
    ("devices", "share"), [(["cuda:0"], 1), (["cuda:0", "cuda:1"], 1), (["cpu"], 4)]
)
def test_job_workers_follow_the_cores_and_are_two_at_least(
    devices: Sequence[str], share: int
) -> None:
    assert default_job_workers(devices) == max(2, available_cpus() // share)
