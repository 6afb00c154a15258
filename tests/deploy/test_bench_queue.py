"""`gdsr-bench queue` measures the job sizes that deploy/CAPACITY.md uses."""

from deploy.bench.queue import bench_queue


def test_a_job_costs_some_kilobytes_and_less_once_it_has_ended() -> None:
    figures = bench_queue(jobs=200)

    assert all(value > 0 for value in figures.values())
    assert 500 < figures["bytes of an ended job"] < 10_000
    assert 500 < figures["bytes of a queued job"] < 10_000
