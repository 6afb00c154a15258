"""Plots the log of a run: losses, learning rate, speed, PSNR-Y."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.trainer.errors import TrainingError
from model.trainer.run.log import FILE


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
        raise TrainingError("a plot needs matplotlib: pip install 'gdsr[train]'") from None

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
