"""Learning rate schedule and progress: pure functions of step and time."""

import math

from model.trainer.config import Optimiser, Run


def progress(run: Run, *, step: int, elapsed: float, reserve: float) -> float:
    """Progress from 0 to 1, by steps, or by time if the time budget ends first.

    `reserve` seconds of the budget are kept for the last validation.
    """
    by_step = step / run.steps
    if not run.minutes:
        return min(1.0, by_step)
    return min(1.0, max(by_step, elapsed / max(1.0, 60 * run.minutes - reserve)))


def rate_factor(optimiser: Optimiser, *, step: int, progress: float) -> float:
    """The factor of the learning rates."""
    warm = min(1.0, (step + 1) / optimiser.warmup) if optimiser.warmup else 1.0
    if optimiser.schedule == "multistep":
        passed = sum(progress >= milestone for milestone in optimiser.milestones)
        return warm * 0.5**passed
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return warm * (optimiser.final + (1 - optimiser.final) * cosine)
