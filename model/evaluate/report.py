"""The report of an evaluation, whose names are those of its JSON, and its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from model.checkpoint import Scores
from model.evaluate.folder import Figures, SliderPath
from model.evaluate.pareto import NAMED_POSITIONS, position_of
from model.metrics.perceptual import Metric

_FIGURES = {
    "lr_psnr": "LR-PSNR", "mesh": "mesh", "mesh_ratio": "of allowed", "mesh_ratio_worst": "worst",
    "shift": "shift", "shift_worst": "worst",
}  # fmt: skip
"""The heading of each figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointScores:
    """The scores of one checkpoint, identified by the digest of its file."""

    name: str
    sha256: str
    consistency: bool
    """True if the service applies back-projection, as in the model card."""
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerScores:
    """The scores of another network, which has one output; identified by the digest of its file."""

    name: str
    sha256: str
    scores: Mapping[str, Figures]
    """Data set -> metric -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """Measures, beside the metrics, of a checkpoint, another network or bicubic.

    Images are named as on the slider; a single image is named like its method.
    """

    places: Mapping[str, Mapping[str, Figures]]
    """Data set -> image -> figure, as in `MethodResults.places`."""
    slider: Mapping[str, Mapping[str, SliderPath]]
    """Data set -> distance -> its growth along the slider."""
    mask: Mapping[str, Mapping[str, int]]
    """Data set -> percentile -> level of 0 to 255."""
    overshoot: Mapping[str, Figures]
    """Image -> pattern -> levels beyond those of the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results, and the settings of the evaluation."""

    back_projection: bool
    """True if it was applied to the outputs of checkpoints and other networks."""
    jpeg: int | None
    """JPEG quality of the small pictures, if they were compressed."""
    degrade: str | None
    """Recipe of the small pictures; none: the protocol's bicubic."""
    pairs: tuple[str, ...]
    """The data sets with given small pictures."""
    pictures: Mapping[str, int]
    """Data set -> number of pictures."""
    original: Mapping[str, Figures]
    """Data set -> figure of the true pictures, as in `MethodResults.original`."""
    bicubic: Mapping[str, Figures]
    """Data set -> metric -> value."""
    peers: tuple[PeerScores, ...]
    checkpoints: tuple[CheckpointScores, ...]
    character: Mapping[str, Character]
    """By name: `bicubic`, other networks, checkpoints."""


def show(report: Report, metrics: Sequence[Metric]) -> None:
    """Print a table of scores for each data set, and one of character for each checkpoint.

    The methods for comparison share one table of character.
    """
    console = Console(markup=False)  # names may contain brackets
    for data in report.pictures:
        console.print(_scores(report, data, metrics))
    checkpoints = [checkpoint.name for checkpoint in report.checkpoints]
    others = [name for name in report.character if name not in checkpoints]
    for names in (others, *([name] for name in checkpoints)):
        console.print(_character(report, names))
        for name in names:
            for line in _lines(report.character[name]):
                console.print(line, highlight=False, soft_wrap=True)


def _scores(report: Report, data: str, metrics: Sequence[Metric]) -> Table:
    """Scores on one data set: a row for each slider position of each checkpoint."""
    count = report.pictures[data]
    title = f"{data}, {count} picture{'s' if count > 1 else ''}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)  # six metrics in 80 columns
    table.add_column("trade-off", overflow="fold", min_width=len("0.5 fused"))
    for metric in metrics:
        better = "↑" if metric.higher_is_better else "↓"
        table.add_column(f"{metric.title} {better}", justify="right", no_wrap=True)
    table.add_row("bicubic", *_cells(report.bicubic[data], metrics))
    for peer in report.peers:
        table.add_row(peer.name, *_cells(peer.scores[data], metrics))
    for checkpoint in report.checkpoints:
        table.add_section()
        table.add_row(checkpoint.name, style="bold")
        for output, scores in checkpoint.scores[data].items():
            table.add_row(_label(output), *_cells(scores, metrics))
    return table


def _character(report: Report, names: Sequence[str]) -> Table:
    """Character of methods on each data set, beside the true pictures and the allowances."""
    title = f"Character: {', '.join(names)}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("trade-off", overflow="fold", min_width=len("0.5 fused"))
    for heading in (*_FIGURES.values(), "overshoot"):
        table.add_column(heading, justify="right", no_wrap=True)
    for data, original in report.original.items():
        table.add_section()
        table.add_row(data, style="bold")
        for label, figure in (("original", "mesh"), ("allowed", "mesh_allowance")):
            mesh = f"{original[figure]:.2f}" if figure in original else "-"
            table.add_row(label, "", mesh)
        for method in names:
            character = report.character[method]
            for image, figures in character.places[data].items():
                cells = [f"{figures[name]:.2f}" if name in figures else "-" for name in _FIGURES]
                over = character.overshoot.get(image)
                worst = f"{max(over.values()):.1f}" if over else "-"
                table.add_row(_label(image), *cells, worst)
    return table


def _lines(character: Character) -> list[str]:
    """Lines for a checkpoint: monotonicity of its slider and range of its mask."""
    lines = []
    for data, distances in character.slider.items():
        mask = character.mask[data]
        ways = []
        for name, path in distances.items():
            grows = "grows" if path.grows else "does not always grow"
            share = "" if path.second_half is None else f", {path.second_half:.0%} beyond 0.5"
            ways.append(f"{name.upper()} {path.distances[-1]:.4g} ({grows}{share})")
        lines.append(f"{data}: slider {', '.join(ways)}; mask {mask['p5']} to {mask['p95']}")
    return lines


def _label(image: str) -> str:
    return f"{position_of(image):g} {image}" if image in NAMED_POSITIONS else image


def _cells(scores: Mapping[str, float], metrics: Sequence[Metric]) -> list[str]:
    return [
        f"{scores[metric.name]:.{metric.digits}f}" if metric.name in scores else "-"
        for metric in metrics
    ]
