"""A run: its folder, networks and data, and its periodic tasks.

Losses are checked before anything is written: no saved state or checkpoint has seen a loss that is
not finite.
"""

import hashlib
import math
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import safetensors.torch
import torch

from model.checkpoint import CheckpointInvalid, check_finite, save_checkpoint
from model.files import write_atomically
from model.trainer.config import Data, TrainConfig
from model.trainer.config_file import write_config
from model.trainer.data.batches import Batches
from model.trainer.data.photographs import find_photographs, is_usable, keep_photographs
from model.trainer.data.teacher import CachedBatches, make_cache
from model.trainer.errors import ConfigInvalid, TrainingError, writing
from model.trainer.parallel import Processes
from model.trainer.run.cards import card_of, origin_of
from model.trainer.run.log import Log
from model.trainer.run.state import TrainState, load_state, save_state
from model.trainer.step.networks import build_networks, build_optimisers
from model.trainer.step.step import Entry, LossBuffer
from model.trainer.validation import MIN_SIDE, read_pairs, validate

CONFIG, STATE, BEST = "config.json", "state.pt", "best.safetensors"
_ADVICE = "a lower optimiser.learning_rate, or optimiser.clip, may help"
_OUTSIDE = 10.0  # seconds of a time budget for the work before and after the loop


class Run:
    """The objects of a training session."""

    def __init__(
        self, config: TrainConfig, out: Path, processes: Processes, *, resume: bool, quiet: bool
    ) -> None:
        """Load photographs and weights; write the configuration to `out` only after all is loaded.

        Raises:
            TrainingError: training cannot start or continue, for the reason in the message.
        """
        self.config, self.out, self.processes = config, out, processes
        device = processes.device
        torch.backends.cudnn.benchmark = device.type == "cuda"  # shapes of a step never change
        if config.data.batch % processes.count:
            raise ConfigInvalid(
                f"data.batch is {config.data.batch}; {processes.count} processes cannot share it"
            )
        if processes.first and not resume and (out / STATE).exists():
            raise TrainingError(f"{out} holds a run already: resume it, or name another folder")
        # A resumed run needs no weights to start from: they may be gone.
        generator = replace(config.generator, init="") if resume else config.generator
        self.networks = build_networks(replace(config, generator=generator), device)
        self.optimisers = build_optimisers(config, self.networks, device)
        if resume:
            self.train_state = load_state(out / STATE, self.networks, self.optimisers, device)
        else:
            self.train_state = TrainState(origin=origin_of(config))
        paths, held_out, held_in = _split(config)
        self.pairs = read_pairs(held_out, config.validation, folder=held_in, device=device)
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"pixels.{processes.rank}.partial"
        photographs, data = keep_photographs(paths, config.data_of_cache, device=device, file=file)
        self.photographs = photographs
        if processes.first:
            write_config(out / CONFIG, config)
        self.batches = self._batches(data, quiet=quiet)
        self.loss_buffer = LossBuffer()
        self.log = Log(
            out,
            steps=config.run.steps,
            silent=not processes.first,
            quiet=quiet,
            tensorboard=config.run.tensorboard,
        )

    def _batches(self, data: Data, *, quiet: bool) -> Batches | CachedBatches:
        """Batches made on the fly, or cut from the teacher's cache."""
        config, processes = self.config, self.processes
        teacher, seed = config.teacher, config.run.seed
        if teacher is None:
            degradation = config.degradation
            return Batches(
                self.photographs, data, degradation=degradation, seed=seed, processes=processes
            )
        folder = Path(teacher.cache) if teacher.cache else self.out / "teacher"
        make_cache(config, teacher, folder, self.photographs, processes=processes, quiet=quiet)
        processes.wait()
        return CachedBatches(folder, teacher, config.data, seed=seed, processes=processes)

    @property
    def reserve(self) -> float:
        """Seconds of a time budget that are reserved for the end."""
        return 1.2 * self.train_state.validation + min(_OUTSIDE, 6 * self.config.run.minutes)

    def begin(self, *, resumed: bool) -> None:
        photographs, train_state = self.photographs, self.train_state
        digest = hashlib.sha256("\n".join(photographs.names).encode()).hexdigest()[:16]
        self.log.event(
            "resume" if resumed else "start",
            step=train_state.step,
            photographs=len(photographs.names),
            broken=[str(path) for path in photographs.broken],
            small=[str(path) for path in photographs.small],
            kept=photographs.pixels.device.type,
            torch=torch.__version__,
            device=str(self.processes.device),
        )
        self.log.say(
            f"{len(photographs.names):,} photographs, {3 * len(photographs.pixels) / 1e6:,.0f} MB; "
            f"{len(self.pairs)} to validate with"
        )
        if photographs.broken:
            names = ", ".join(path.name for path in photographs.broken)
            self.log.say(f"skipped {len(photographs.broken)} broken: {names}")
        if photographs.small:
            self.log.say(f"skipped {len(photographs.small)} smaller than a patch")
        if resumed and train_state.photographs != digest:
            self.log.say("the photographs have changed since the run began")
        train_state.photographs = digest

    def checked(self, entry: Entry | None) -> Entry | None:
        """Check a loss entry from the buffer.

        Raises:
            TrainingError: a loss is not finite; the batch is saved beside the state.
        """
        terms = entry.terms if entry else {}
        broken = next((name for name, value in terms.items() if not math.isfinite(value)), None)
        if entry is None or broken is None:
            return entry
        batch = self.batches.at(entry.step)  # recreated: it depends only on the step
        path = self.out / f"broken_step_{entry.step}_{self.processes.rank}.safetensors"
        tensors = {"lr": batch.lr.contiguous().cpu(), "hr": batch.hr.contiguous().cpu()}
        with writing(path):
            write_atomically(path, safetensors.torch.save(tensors))
        self.log.event("broken", step=entry.step, term=broken, batch=path.name)
        raise TrainingError(
            f"the loss {broken} of step {entry.step} is not finite; the batch is in {path}, "
            f"the last good state stays; {_ADVICE}"
        )

    def _check(self) -> None:
        """Check the losses and the weights after all steps so far.

        A gradient may be infinite although the loss is finite.

        Raises:
            TrainingError: one is not finite.
        """
        self.checked(self.loss_buffer.flush())
        for network in filter(None, (self.networks.generator, self.networks.discriminator)):
            try:
                check_finite(network)
            except CheckpointInvalid as error:
                raise TrainingError(
                    f"after step {self.train_state.step} {error}; the last good state stays; "
                    f"{_ADVICE}"
                ) from None

    def validate(self) -> None:
        """Score the moving average of the weights, draw samples, and save it if it is the best.

        The first process does it; the others wait, however long it takes.
        """
        self._check()
        if self.processes.first:
            self._validate()
        self.processes.wait()

    def _validate(self) -> None:
        began = time.perf_counter()
        settings, train_state = self.config.validation, self.train_state
        scores, strip = validate(self.networks.average, self.pairs, samples=settings.samples)
        value = float("inf") if settings.best == "last" else scores[settings.best]
        best = settings.best == "last" or value > train_state.best
        with writing(self.out):
            if strip:
                folder = self.out / "samples"
                folder.mkdir(exist_ok=True)
                strip.save(folder / f"step_{train_state.step:07}.png")
            if best:
                train_state.best = value
                card = card_of(self.config, train_state, photographs=len(self.photographs.names))
                save_checkpoint(self.out / BEST, self.networks.average, card)
        train_state.validation = time.perf_counter() - began
        self.log.scores(train_state.step, scores, best=best)

    def save(self) -> None:
        self._check()
        if self.processes.first:
            save_state(self.out / STATE, self.train_state, self.networks, self.optimisers)
        self.processes.wait()

    def end(self, *, stopped: bool) -> None:
        self.log.event("stopped" if stopped else "end", step=self.train_state.step)
        outcome = "stopped by a signal; resume it" if stopped else "done"
        text = f"{outcome}: step {self.train_state.step:,}, {self.out / BEST}"
        self.log.say(text, done=not stopped)


def _split(config: TrainConfig) -> tuple[list[Path], list[Path], Path]:
    """Split the photographs into training and validation; also returns the validation folder.

    Raises:
        TrainingError: there is no such folder.
    """
    data = config.data
    folder = Path(data.hr_dir)
    paths = find_photographs(folder)
    if data.val_dir:
        folder = Path(data.val_dir)
        held_out = find_photographs(folder)
    else:
        count = min(max(1, data.hold_out), -(-len(paths) // 10))
        every = len(paths) / max(1, count)
        starts = [int(index * every) for index in range(count)]
        groups = [paths[start:end] for start, end in zip(starts, [*starts[1:], None], strict=False)]
        usable = partial(is_usable, side=MIN_SIDE)
        held_out = [path for group in groups for path in islice(filter(usable, group), 1)] or paths
    excluded = set(held_out)
    # A single picture is used for both.
    return [path for path in paths if path not in excluded] or paths, held_out, folder
