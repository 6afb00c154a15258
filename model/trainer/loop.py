"""The training loop: from a configuration to `best.safetensors`, for both stages.

A run is a folder: `config.json`, `state.pt` to resume from, `best.safetensors` to use, `log.jsonl`,
and a sample strip for each validation. On a signal the state is saved first; on a loss that is not
finite the run ends and the last state stays.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

from model.trainer.config import Optimiser, TrainConfig
from model.trainer.config import Run as RunConfig
from model.trainer.parallel import join, leave
from model.trainer.run.run import Run
from model.trainer.step.networks import set_rate
from model.trainer.step.step import Entry, GraphedStep, Step

_AGREE_EVERY = 10  # steps between two agreements on time among several processes


def train(config: TrainConfig, out: Path, *, resume: bool, quiet: bool = False) -> None:
    """Train, or resume the run in `out`; `quiet` prints nothing.

    Raises:
        TrainingError: training cannot start or continue, for the reason in the message.
    """
    began = time.perf_counter()
    processes = join(config.device.name)
    ended = False
    try:
        run = Run(config, out, processes, resume=resume, quiet=quiet)
        _loop(run, began=began, resume=resume)
        ended = True
    finally:
        leave(together=ended)


def _loop(run: Run, *, began: float, resume: bool) -> None:
    config, train_state, processes = run.config, run.train_state, run.processes
    before = train_state.elapsed
    step = Step(config, run.networks, run.optimisers, processes)
    able = config.optimiser.kind == "adam" and processes.count == 1
    graphed = config.device.graph and processes.device.type == "cuda" and able
    take = GraphedStep(step) if graphed else step
    validated, stopped, reserve = -1, False, 0.0

    with run.log, run.batches.stream(train_state.step) as stream, _stop_signals() as ending:
        run.begin(resumed=resume)
        if not resume:
            run.validate()
            run.save()
        throughput = _Throughput(run)
        for batch in stream:
            # Check progress and stop requests.
            if processes.count == 1 or train_state.step % _AGREE_EVERY == 0:
                train_state.elapsed, reserve, stopped = processes.agree(
                    elapsed=before + time.perf_counter() - began,
                    reserve=run.reserve,
                    stop=ending(),
                )
            fraction = progress(
                config.run, step=train_state.step, elapsed=train_state.elapsed, reserve=reserve
            )
            if stopped or fraction >= 1:
                break

            # One step.
            factor = rate_factor(config.optimiser, step=train_state.step, progress=fraction)
            rate = factor * config.optimiser.learning_rate
            set_rate(run.optimisers.generator, rate)
            if config.losses.adversarial and run.optimisers.discriminator:
                discriminator_rate = factor * config.losses.adversarial.learning_rate
                set_rate(run.optimisers.discriminator, discriminator_rate)
            throughput.add(run.checked(run.loss_buffer.put(train_state.step, take(batch))))
            train_state.step += 1

            # Periodic log, validation and save.
            if train_state.step % config.run.log_every == 0:
                run.log.step(throughput.record(rate=rate), fraction=fraction)
            if train_state.step % config.validation.every == 0:
                run.validate()
                validated = train_state.step
                throughput.restart()
            if train_state.step % config.run.save_every == 0:
                run.save()
                throughput.restart()

        if not stopped and validated != train_state.step:
            run.validate()
        train_state.elapsed = before + time.perf_counter() - began
        run.save()
        run.end(stopped=stopped)


def progress(run: RunConfig, *, step: int, elapsed: float, reserve: float) -> float:
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


class _Throughput:
    """Mean losses, images per second and remaining time, over recent steps."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: list[Entry] = []
        self.restart()

    def add(self, entry: Entry | None) -> None:
        if entry:
            self._seen.append(entry)

    def restart(self) -> None:
        """Exclude time that was not spent on training."""
        self._mark, self._step = time.perf_counter(), self._run.train_state.step
        self._waited = self._run.batches.waited

    def record(self, *, rate: float) -> dict[str, Any]:
        """A line of the log, with rates since the previous one.

        `waited` is the share of time that the loop waited for data.
        """
        run, train_state = self._run.config.run, self._run.train_state
        seconds, steps = time.perf_counter() - self._mark, train_state.step - self._step
        left = (run.steps - train_state.step) * seconds / steps
        if run.minutes:
            left = min(left, 60 * run.minutes - self._run.reserve - train_state.elapsed)
        names = self._seen[0].terms if self._seen else ()
        record = {
            "step": train_state.step,
            "terms": {name: fmean(entry.terms[name] for entry in self._seen) for name in names},
            "learning_rate": rate,
            "images_per_second": self._run.config.data.batch * steps / seconds,
            "waited": (self._run.batches.waited - self._waited) / seconds,
            "seconds_left": max(0.0, left),
        }
        self._seen.clear()
        self.restart()
        return record


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that is true once SIGTERM or SIGINT was received.

    A second signal ends the process at once.
    """
    received = []
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in signals:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        restore()
