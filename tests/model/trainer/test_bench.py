from collections.abc import Callable

import pytest
import torch

from deploy.bench.train import bench_train
from model.trainer.config import TrainConfig
from model.trainer.precision import takes_bfloat16


def test_both_loops_are_timed_in_every_round(
    configure: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    found = bench_train(configure("smoke_adversarial", "data.hr_dir="), rounds=2, steps=3)

    assert len(found["real"]) == len(found["bare"]) == 2
    assert all(speed > 0 for speed in (*found["real"], *found["bare"]))
    assert "ratio" in capsys.readouterr().out


def test_the_gain_of_bfloat16_is_shown_where_a_run_takes_it(
    configure: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure("smoke", "data.hr_dir=", "device.precision=bfloat16")

    found = bench_train(config, rounds=2, steps=2)

    taken = takes_bfloat16(torch.device("cpu"))
    assert len(found["single"]) == (2 if taken else 0)
    assert ("bfloat16 x" in capsys.readouterr().out) is taken
