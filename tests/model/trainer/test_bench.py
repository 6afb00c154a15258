from collections.abc import Callable

from model.trainer.bench import bench_train
from model.trainer.config import TrainConfig


def test_both_loops_are_timed_in_every_round(configure: Callable[..., TrainConfig]) -> None:
    found = bench_train(configure("smoke_adversarial", "data.hr_dir="), rounds=2, steps=3)

    assert len(found.ratios) == 2
    assert all(ratio > 0 for ratio in found.ratios)
    assert "ratio" in str(found)
