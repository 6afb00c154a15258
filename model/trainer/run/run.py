"""A run: its folder, its networks and its data, and what is done with them now and then.

Whatever is written here was checked first: no state and no checkpoint has seen a loss that is not
finite.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from model.checkpoint import save_checkpoint
from model.trainer.config import TrainConfig
from model.trainer.data.batches import Batches
from model.trainer.data.cached import CachedBatches
from model.trainer.data.photographs import Photographs, find_photographs
from model.trainer.faults import LossNotFinite, StorageFull
from model.trainer.files import write_whole
from model.trainer.parallel import Processes
from model.trainer.run.cards import card_of
from model.trainer.run.log import Log
from model.trainer.run.state import Standing, save_state
from model.trainer.step.ledger import Entry, Ledger
from model.trainer.step.networks import Networks, Optimisers
from model.trainer.validation import Pair, save_strip, validate

CONFIG, STATE, BEST = "config.json", "state.pt", "best.safetensors"
_OUTSIDE = 10.0  # seconds of a budget in minutes for what comes before and after the loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that a session of training works with."""

    config: TrainConfig
    out: Path
    processes: Processes
    networks: Networks
    optimisers: Optimisers
    photographs: Photographs
    batches: Batches | CachedBatches
    pairs: list[Pair]
    standing: Standing
    ledger: Ledger
    log: Log

    @property
    def graphed(self) -> bool:
        """Whether the step is captured in a CUDA graph."""
        alone = self.processes.count == 1
        return self.config.device.graph and self.processes.device.type == "cuda" and alone

    @property
    def reserve(self) -> float:
        """Seconds of a budget in minutes that the end needs."""
        return 1.2 * self.standing.validation + min(_OUTSIDE, 6 * self.config.run.minutes)

    def begin(self, *, resumed: bool) -> None:
        """Say what there is to train on."""
        photographs, standing = self.photographs, self.standing
        digest = hashlib.sha256("\n".join(photographs.names).encode()).hexdigest()[:16]
        self.log.event(
            "resume" if resumed else "start",
            step=standing.step,
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
        if resumed and standing.photographs != digest:
            self.log.say("the photographs have changed since the run began")
        standing.photographs = digest

    def checked(self, entry: Entry | None) -> Entry | None:
        """What the ledger gave, if it is finite.

        Raises:
            LossNotFinite: it is not; the batch is kept beside the state.
        """
        if entry is None or not entry.broken:
            return entry
        batch = self.batches.at(entry.step)  # made again: it depends on the step alone
        path = self.out / f"broken_step_{entry.step}_{self.processes.rank}.safetensors"
        tensors = {"lr": batch.lr.contiguous().cpu(), "hr": batch.hr.contiguous().cpu()}
        content = safetensors.torch.save(tensors)
        write_whole(path, lambda partial: partial.write_bytes(content))
        self.log.event("broken", step=entry.step, term=entry.broken, batch=path.name)
        raise LossNotFinite(step=entry.step, term=entry.broken, batch=path)

    def validate(self) -> None:
        """Score the average of the weights, draw samples, and keep it if it is the best.

        The first process does it, and the others wait for it, however long it takes.
        """
        self.checked(self.ledger.flush())
        if self.processes.first:
            self._validate()
        self.processes.wait()

    def _validate(self) -> None:
        began = time.perf_counter()
        settings, standing = self.config.validation, self.standing
        scores, strip = validate(self.networks.average, self.pairs, samples=settings.samples)
        value = float("inf") if settings.best == "last" else getattr(scores, settings.best)
        best = settings.best == "last" or value > standing.best
        try:
            if settings.samples:
                folder = self.out / "samples"
                folder.mkdir(exist_ok=True)
                save_strip(folder / f"step_{standing.step:07}.png", strip)
            if best:
                standing.best = value
                card = card_of(self.config, standing, photographs=len(self.photographs.names))
                save_checkpoint(self.out / BEST, self.networks.average, card)
        except OSError as error:
            raise StorageFull(error, self.out) from None
        standing.validation = time.perf_counter() - began
        self.log.scores(standing.step, scores, best=best)

    def save(self) -> None:
        """Keep the state, to resume from."""
        self.checked(self.ledger.flush())
        if self.processes.first:
            save_state(self.out / STATE, self.standing, self.networks, self.optimisers)
        self.processes.wait()

    def end(self, *, stopped: bool) -> None:
        """Say how it ended."""
        self.log.event("stopped" if stopped else "end", step=self.standing.step)
        said = "stopped by a signal; resume it" if stopped else "done"
        text = f"{said}: step {self.standing.step:,}, {self.out / BEST}"
        self.log.close(text, done=not stopped)


def choose(config: TrainConfig) -> tuple[list[Path], list[Path], Path]:
    """Photographs to train on, others to validate with, and the folder of these.

    Raises:
        TrainingFault: there is no such folder.
    """
    data = config.data
    folder = Path(data.hr_dir)
    paths = find_photographs(folder)
    if data.val_dir:
        return paths, find_photographs(Path(data.val_dir)), Path(data.val_dir)
    if len(paths) < 2:  # a single picture has to do for both
        return paths, paths, folder
    count = min(max(1, data.hold_out), -(-len(paths) // 10))
    every = len(paths) / count
    held_out = {paths[int(place * every)] for place in range(count)}
    return [path for path in paths if path not in held_out], sorted(held_out), folder
