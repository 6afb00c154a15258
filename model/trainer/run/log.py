"""The log of a run: JSON lines, a progress bar on the terminal, TensorBoard, and a plot.

Only the first of several processes logs. Without a terminal a line per record replaces the bar.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from model.trainer.errors import TrainingError, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "log.jsonl"


class Log:
    """The log of a run in the folder `out`."""

    def __init__(
        self, out: Path, *, steps: int, silent: bool, quiet: bool, tensorboard: bool
    ) -> None:
        """`silent`: no output at all; `quiet`: the file only."""
        self._path = out / FILE
        self._silent = silent
        self._steps = steps
        self._board = None if silent or not tensorboard else _board(out)
        self._console = Console(highlight=False, soft_wrap=True, quiet=silent or quiet)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[status]}"),
            console=self._console,
            disable=silent or quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(out.name, total=1.0, status="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._board:
            self._board.close()

    def event(self, event: str, **values: Any) -> None:
        """Write a line for an event other than a step."""
        self._write({"event": event, **values})

    def say(self, text: str, *, done: bool = False) -> None:
        if done:
            self._bar.update(self._task, completed=1.0)
        self._console.print(text, markup=False)

    def step(self, record: Mapping[str, Any], *, fraction: float) -> None:
        """Write a line with the losses and rates of recent steps, and show it."""
        self._write({"event": "step", **record})
        terms = "  ".join(f"{name} {value:.4g}" for name, value in record["terms"].items())
        status = (
            f"step {record['step']:,}/{self._steps:,}  {terms}  "
            f"{record['images_per_second']:.1f} images/s  "
            f"{timedelta(seconds=round(record['seconds_left']))} left"
        )
        self._bar.update(self._task, completed=fraction, status=status)
        if not self._console.is_terminal:
            self.say(status)
        if self._board:
            for name, value in record["terms"].items():
                self._board.add_scalar(f"loss/{name}", value, record["step"])
            self._board.add_scalar("learning_rate", record["learning_rate"], record["step"])

    def scores(self, step: int, scores: Mapping[str, float], *, best: bool) -> None:
        self._write({"event": "validation", "step": step, **scores, "best": best})
        self.say(
            f"step {step:,}: PSNR-Y psnr {scores['psnr']:.2f}  fused {scores['fused']:.2f}  "
            f"gan {scores['gan']:.2f} dB{'  (best)' if best else ''}"
        )
        if self._board:
            for name, value in scores.items():
                self._board.add_scalar(f"psnr_y/{name}", value, step)

    def _write(self, values: Mapping[str, Any]) -> None:
        if self._silent:
            return
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **values})
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _board(out: Path) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError(
            "run.tensorboard needs tensorboard: pip install '.[tensorboard]' in the checkout"
        ) from None
    return SummaryWriter(str(out / "tensorboard"))


def plot(run: Path, target: Path) -> None:
    """Plot the log of `run` into the PNG `target`.

    Raises:
        TrainingError: there is nothing in the log to plot, matplotlib is not installed, or the
            suffix of `target` names no image format.
        OSError: there is no log.
    """
    steps, validations = read_log(run)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise TrainingError(
            "a plot needs matplotlib: pip install '.[train]' in the checkout"
        ) from None

    figure = Figure(figsize=(12, 7), layout="constrained")
    losses, rate, quality, speed = figure.subplots(2, 2).flatten()
    terms: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for step, record in steps.items():
        for name, value in record["terms"].items():
            terms[name].append((step, value))
    for name, points in terms.items():
        losses.plot(*zip(*points, strict=True), label=name, linewidth=1)
    losses.set(title="loss terms, weighted", yscale="log")
    rate.plot(list(steps), [record["learning_rate"] for record in steps.values()])
    rate.set(title="learning rate")
    for output in ("psnr", "fused", "gan"):
        values = [record[output] for record in validations.values()]
        quality.plot(list(validations), values, label=output, marker=".")
    quality.set(title="PSNR-Y on the validation pictures, dB", xlabel="step")
    speed.plot(list(steps), [record["images_per_second"] for record in steps.values()])
    speed.set(title="images per second", xlabel="step", ylim=(0, None))
    for axes in (losses, quality):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    for axes in (losses, rate, quality, speed):
        axes.grid(alpha=0.3)
    figure.suptitle(run.resolve().name)
    try:
        figure.savefig(target, dpi=100)
    except ValueError as error:  # the suffix names no format
        raise TrainingError(f"{target}: {error}") from None


def read_log(run: Path) -> tuple[dict[int, Mapping[str, Any]], dict[int, Mapping[str, Any]]]:
    """Step records and validations by step; steps that a resumed run repeated count once, the last.

    Raises:
        TrainingError: the log is empty.
        OSError: there is no log.
    """
    steps: dict[int, Mapping[str, Any]] = {}
    validations: dict[int, Mapping[str, Any]] = {}
    for line in (run / FILE).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the incomplete last line of a killed process
        if record["event"] == "step":
            steps[record["step"]] = record
        elif record["event"] == "validation":
            validations[record["step"]] = record
    if not steps and not validations:
        raise TrainingError(f"{run / FILE} has nothing to plot yet")
    return dict(sorted(steps.items())), dict(sorted(validations.items()))
