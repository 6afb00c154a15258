from dataclasses import replace

import pytest

from model.trainer.config import Optimiser, Run
from model.trainer.loop import progress, rate_factor

COSINE = Optimiser(learning_rate=1.0, final=0.1, warmup=10)
STEPS = Optimiser(learning_rate=1.0, schedule="multistep", milestones=(0.1, 0.2, 0.4, 0.6))


def test_the_cosine_goes_from_one_to_its_final_share() -> None:
    factors = [rate_factor(COSINE, step=100, progress=at / 10) for at in range(11)]

    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)


def test_a_rate_warms_up_over_its_first_steps() -> None:
    factors = [rate_factor(COSINE, step=step, progress=0) for step in (0, 4, 9, 10)]

    assert factors == pytest.approx([0.1, 0.5, 1, 1])


def test_a_rate_is_halved_at_every_milestone() -> None:
    factors = [rate_factor(STEPS, step=0, progress=at) for at in (0.09, 0.1, 0.3, 0.5, 1)]

    assert factors == [1, 0.5, 0.25, 0.125, 0.0625]


def test_progress_is_by_steps_or_by_time_whatever_ends_first() -> None:
    run = Run(name="run", steps=100)
    timed = replace(run, minutes=10.0)

    assert progress(run, step=50, elapsed=1e9, reserve=0) == 0.5
    assert progress(timed, step=10, elapsed=300, reserve=0) == 0.5
    assert progress(timed, step=90, elapsed=300, reserve=0) == 0.9
    assert progress(timed, step=10, elapsed=300, reserve=300) == 1
