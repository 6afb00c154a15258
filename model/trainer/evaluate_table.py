"""The scores of an evaluation as a table for people."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from model.perceptual import Metric
from model.trainer.evaluate import Report
from model.trainer.pareto import place_of


def show(report: Report, metrics: Sequence[Metric]) -> None:
    """Print a table for each data set."""
    console = Console()
    for data in report.pictures:
        console.print(_table(report, data, metrics))


def _table(report: Report, data: str, metrics: Sequence[Metric]) -> Table:
    """What was measured on one data set: a row for each place on each checkpoint's slider."""
    count = report.pictures[data]
    title = f"{data}, {count} picture{'s' if count > 1 else ''}"
    drawn = Table(title=title, title_justify="left", box=SIMPLE_HEAD)  # six metrics in 80 columns
    drawn.add_column("trade-off", overflow="fold", min_width=len("0.5 fused"))
    for metric in metrics:
        better = "↑" if metric.higher_is_better else "↓"
        drawn.add_column(f"{metric.title} {better}", justify="right", no_wrap=True)
    drawn.add_row("bicubic", *_cells(report.bicubic[data], metrics))
    for judged in report.checkpoints:
        drawn.add_section()
        drawn.add_row(judged.name, style="bold")
        for output, scores in judged.scores[data].items():
            place = f"{place_of(output):g}"
            said = place if output == place else f"{place} {output}"
            drawn.add_row(said, *_cells(scores, metrics))
    return drawn


def _cells(scores: Mapping[str, float], metrics: Sequence[Metric]) -> list[str]:
    return [
        f"{scores[metric.name]:.{metric.digits}f}" if metric.name in scores else "-"
        for metric in metrics
    ]
