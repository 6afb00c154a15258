"""The training loop: from a configuration to `best.safetensors`, for both stages.

A run is a folder: `config.json`, `state.pt` to resume from, `best.safetensors` to use, `log.jsonl`,
and a sample strip for each validation. On a signal the state is saved first; on a loss that is not
finite the run ends and the last state stays.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType

import torch

from model.trainer.config import Data, TrainConfig
from model.trainer.config_file import write_config
from model.trainer.data.batches import Batches
from model.trainer.data.cached import CachedBatches
from model.trainer.data.photographs import Photographs, keep_photographs
from model.trainer.data.teacher import make_cache
from model.trainer.errors import ConfigInvalid, TrainingError
from model.trainer.parallel import Processes, join, leave
from model.trainer.run.cards import origin_of
from model.trainer.run.log import Log, StepRecord
from model.trainer.run.run import BEST, CONFIG, STATE, Run, choose
from model.trainer.run.state import TrainState, load_state
from model.trainer.schedule import progress, rate_factor
from model.trainer.step.graph import GraphedStep
from model.trainer.step.loss_buffer import Entry, LossBuffer
from model.trainer.step.networks import build_networks, build_optimisers, set_rate
from model.trainer.step.step import Step
from model.trainer.validation import read_pairs

_AGREE_EVERY = 10  # steps between two agreements on time among several processes


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The outcome of a run."""

    step: int
    stopped: bool
    """Stopped by a signal; can be resumed."""
    best: Path


def train(config: TrainConfig, out: Path, *, resume: bool, quiet: bool = False) -> TrainResult:
    """Train, or resume the run in `out`; `quiet` prints nothing.

    Raises:
        TrainingError: training cannot start or continue, for the reason in the message.
    """
    began = time.perf_counter()
    processes = join(config.device.name)
    ended = False
    try:
        run = _prepared(config, out, processes, resume=resume, quiet=quiet)
        outcome = _loop(run, began=began, resume=resume)
        ended = True
    finally:
        leave(together=ended)
    return outcome


def _prepared(
    config: TrainConfig, out: Path, processes: Processes, *, resume: bool, quiet: bool
) -> Run:
    """Load photographs and weights; write the configuration to `out` only after all is loaded."""
    device = processes.device
    torch.backends.cudnn.benchmark = device.type == "cuda"  # shapes of a step never change
    if config.data.batch % processes.count:
        raise ConfigInvalid(
            f"data.batch is {config.data.batch}; {processes.count} processes cannot share it"
        )
    if processes.first and not resume and (out / STATE).exists():
        raise TrainingError(f"{out} holds a run already: resume it, or name another folder")
    networks = build_networks(config, device)
    optimisers = build_optimisers(config, networks, device)
    paths, held_out, held_in = choose(config)
    pairs = read_pairs(held_out, config.validation, folder=held_in, device=device)
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"pixels.{processes.rank}.partial"
    photographs, data = keep_photographs(paths, config.data_of_cache, device=device, file=file)
    if resume:
        train_state = load_state(out / STATE, networks, optimisers, device)
    else:
        train_state = TrainState(origin=origin_of(config))
    if processes.first:
        write_config(out / CONFIG, config)
    return Run(
        config=config,
        out=out,
        processes=processes,
        networks=networks,
        optimisers=optimisers,
        photographs=photographs,
        batches=_batches(config, out, photographs, data, processes, quiet=quiet),
        pairs=pairs,
        train_state=train_state,
        loss_buffer=LossBuffer(),
        log=Log(
            out,
            steps=config.run.steps,
            silent=not processes.first,
            quiet=quiet,
            tensorboard=config.run.tensorboard,
        ),
    )


def _batches(
    config: TrainConfig,
    out: Path,
    photographs: Photographs,
    data: Data,
    processes: Processes,
    *,
    quiet: bool,
) -> Batches | CachedBatches:
    """Batches made on the fly, or cut from the teacher's cache."""
    seed, teacher = config.run.seed, config.teacher
    if teacher is None:
        return Batches(
            photographs,
            data,
            degradation=config.degradation,
            seed=seed,
            device=processes.device,
            rank=processes.rank,
            processes=processes.count,
        )
    folder = Path(teacher.cache) if teacher.cache else out / "teacher"
    make_cache(config, teacher, folder, photographs, processes=processes, quiet=quiet)
    processes.wait()
    return CachedBatches(folder, teacher, config.data, seed=seed, processes=processes)


def _loop(run: Run, *, began: float, resume: bool) -> TrainResult:
    config, train_state, processes = run.config, run.train_state, run.processes
    before = train_state.elapsed
    step = Step(config, run.networks, run.optimisers, processes)
    take = GraphedStep(step) if run.graphed else step
    validated, stopped, reserve = -1, False, 0.0

    with run.log, run.batches.stream(train_state.step) as stream, _ending() as ending:
        run.begin(resumed=resume)
        if not resume:
            run.validate()
            run.save()
        pace = _Pace(run)
        for batch in stream:
            # Check progress and stop requests.
            if processes.count == 1 or train_state.step % _AGREE_EVERY == 0:
                train_state.elapsed, reserve, stopped = processes.agree(
                    elapsed=before + time.perf_counter() - began,
                    reserve=run.reserve,
                    stop=ending(),
                )
            along = progress(
                config.run, step=train_state.step, elapsed=train_state.elapsed, reserve=reserve
            )
            if stopped or along >= 1:
                break

            # One step.
            factor = rate_factor(config.optimiser, step=train_state.step, progress=along)
            rate = factor * config.optimiser.learning_rate
            set_rate(run.optimisers.generator, rate)
            if config.losses.adversarial and run.optimisers.discriminator:
                rate_judge = factor * config.losses.adversarial.learning_rate
                set_rate(run.optimisers.discriminator, rate_judge)
            pace.note(run.checked(run.loss_buffer.put(train_state.step, take(batch))))
            train_state.step += 1

            # Periodic log, validation and save.
            if train_state.step % config.run.log_every == 0:
                run.log.step(pace.record(rate=rate), along=along)
            if train_state.step % config.validation.every == 0:
                run.validate()
                validated = train_state.step
                pace.restart()
            if train_state.step % config.run.save_every == 0:
                run.save()
                pace.restart()

        if not stopped and validated != train_state.step:
            run.validate()
        train_state.elapsed = before + time.perf_counter() - began
        run.save()
        run.end(stopped=stopped)
    return TrainResult(step=train_state.step, stopped=stopped, best=run.out / BEST)


class _Pace:
    """Mean losses, images per second and remaining time, over recent steps."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: list[Entry] = []
        self.restart()

    def note(self, entry: Entry | None) -> None:
        """Add the loss terms of a step."""
        if entry:
            self._seen.append(entry)

    def restart(self) -> None:
        """Exclude time that was not spent on training."""
        self._mark, self._step = time.perf_counter(), self._run.train_state.step
        self._waited = self._run.batches.waited

    def record(self, *, rate: float) -> StepRecord:
        run, train_state = self._run.config.run, self._run.train_state
        seconds, steps = time.perf_counter() - self._mark, train_state.step - self._step
        left = (run.steps - train_state.step) * seconds / steps
        if run.minutes:
            left = min(left, 60 * run.minutes - self._run.reserve - train_state.elapsed)
        names = self._seen[0].terms if self._seen else ()
        record = StepRecord(
            step=train_state.step,
            terms={name: fmean(entry.terms[name] for entry in self._seen) for name in names},
            learning_rate=rate,
            images_per_second=self._run.config.data.batch * steps / seconds,
            waited=(self._run.batches.waited - self._waited) / seconds,
            seconds_left=max(0.0, left),
        )
        self._seen.clear()
        self.restart()
        return record


@contextmanager
def _ending() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT was received; a second one ends the process at once."""
    came = []
    signals = (signal.SIGTERM, signal.SIGINT)
    kept = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in kept.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        restore()

    for number in signals:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()
