"""The perception-distortion plot, with positions on the slider.

Blau and Michaeli, "The Perception-Distortion Tradeoff", CVPR 2018, arXiv:1711.06077: no method can
go below a curve, and a slider moves along one. Distortion is RMSE-Y; perception is LPIPS or NIQE.
For all of them lower is better.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.trainer.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from model.checkpoint import Scores

NAMED_POSITIONS: Mapping[str, float] = {"psnr": 0.0, "fused": 0.5, "gan": 1.0}
"""Slider positions of the network's outputs."""

_DISTORTION = "rmse_y"
_PERCEPTION = {
    "lpips": "LPIPS   (lower: looks more like the original)",
    "niqe": "NIQE   (lower: looks more natural)",
}
_COLOURS = ("#d1495b", "#00798c", "#edae49", "#6a4c93", "#3a7d44", "#30638e")
_INK, _PALE = "#333333", "#999999"
_MARKS: Mapping[str, Mapping[str, Any]] = {
    "psnr": {"marker": "o", "markersize": 9, "markeredgecolor": "white"},
    "fused": {"marker": "s", "markersize": 8.5, "markeredgecolor": "white"},
    "gan": {"marker": "^", "markersize": 10, "markeredgecolor": "white"},
}
_BETWEEN: Mapping[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "white"}
_BICUBIC: Mapping[str, Any] = {"marker": "D", "markersize": 7}

_PAPER = {
    "RCAN": 13.9,
    "EDSR": 14.2,
    "GDSR (paper)": 17.14,
    "ESRGAN": 18.87,
    "SRGAN": 19.35,
    "EnhanceNet": 20.6,
    "RankSRGAN": 21.4,
}
"""RMSE-Y on Urban100, read from figure 5 of the paper (doi:10.1109/ACCESS.2020.2995175). The other
axis there is the perceptual index, neither LPIPS nor NIQE: so these are lines, not points.
"""


def name_of(position: float) -> str:
    """The name of the output at a slider position, else the number."""
    names = {known: name for name, known in NAMED_POSITIONS.items()}
    return names.get(position, f"{position:g}")


def position_of(name: str) -> float:
    """The slider position of a name; the inverse of `name_of`.

    Raises:
        ValueError: `name` is neither a number nor the name of an output.
    """
    return NAMED_POSITIONS[name] if name in NAMED_POSITIONS else float(name)


def check_drawable(path: Path, metrics: Iterable[str]) -> None:
    """Check that a plot is possible, before the measurements.

    Raises:
        TrainingError: matplotlib is not installed.
        ValueError: the suffix is not an image format, or there is nothing to plot.
    """
    if _PERCEPTION.keys().isdisjoint(metrics):
        raise ValueError("a plot needs LPIPS or NIQE")
    if find_spec("matplotlib") is None:
        raise TrainingError("a plot needs matplotlib: pip install '.[train]' in the checkout")
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix[1:] not in FigureCanvasBase.filetypes:
        raise ValueError(f"{path} has no suffix of an image format, such as .png")


def draw(
    path: Path, *, bicubic: Mapping[str, Mapping[str, float]], curves: "Mapping[str, Scores]"
) -> None:
    """Plot a row for each data set: RMSE-Y against LPIPS, and against NIQE.

    `bicubic` is data set -> metric -> value; `curves` are the scores of checkpoints by name.

    Raises:
        TrainingError: matplotlib is not installed.
        OSError: the file cannot be written.
        ValueError: the suffix is not an image format, or there is nothing to plot.
    """
    shown = [name for name in _PERCEPTION if any(name in scores for scores in bicubic.values())]
    check_drawable(path, shown)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    colours = dict(zip(curves, cycle(_COLOURS), strict=False))
    size = 5.6 * len(shown), 0.5 + 4.3 * len(bicubic)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    grid = figure.subplots(len(bicubic), len(shown), squeeze=False)
    for row, (data, scores) in zip(grid, bicubic.items(), strict=True):
        for axes, metric in zip(row, shown, strict=True):
            _frame(axes, data, metric)
            for name, curve in curves.items():
                _plot_slider(axes, curve[data], metric, colour=colours[name])
            if metric in scores:
                axes.plot(scores[_DISTORTION], scores[metric], color=_PALE, **_BICUBIC)
            if data == "Urban100":
                _paper(axes)
    legend = _legend(colours)
    figure.legend(
        handles=legend, loc="outside upper center", ncols=min(len(legend), 4 * len(shown)),
        frameon=False, labelcolor=_INK,
    )  # fmt: skip
    figure.savefig(path, dpi=160, facecolor="white")


def _frame(axes: "Axes", data: str, metric: str) -> None:
    axes.set_title(data, loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.set_xlabel("RMSE-Y   (lower: closer to the original)", color=_INK)
    axes.set_ylabel(_PERCEPTION[metric], color=_INK)
    axes.grid(color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_PALE)
    axes.tick_params(color=_PALE, labelcolor=_INK)
    axes.margins(0.08)


def _plot_slider(
    axes: "Axes", scores: Mapping[str, Mapping[str, float]], metric: str, *, colour: str
) -> None:
    """The curve along the slider: outputs with their markers, positions in between as rings."""
    points = {
        position_of(output): (values[_DISTORTION], values[metric])
        for output, values in scores.items()
        if metric in values
    }
    if not points:
        return
    ordered = [points[position] for position in sorted(points)]
    axes.plot(*zip(*ordered, strict=True), color=colour, linewidth=2, zorder=3)
    for position, point in points.items():
        axes.plot(*point, color=colour, zorder=4, **_MARKS.get(name_of(position), _BETWEEN))


def _paper(axes: "Axes") -> None:
    left, right = axes.get_xlim()
    for name, distortion in _PAPER.items():
        if left < distortion < right:
            axes.axvline(distortion, color=_PALE, linewidth=0.8, linestyle=":", zorder=1)
            axes.annotate(
                name, (distortion, 1), xycoords=("data", "axes fraction"), xytext=(2, -2),
                textcoords="offset points", rotation=90, va="top", color="#777777", fontsize=8,
            )  # fmt: skip


def _legend(colours: Mapping[str, str]) -> "list[Line2D]":
    from matplotlib.lines import Line2D

    line = partial(Line2D, [], [])
    mark = partial(line, color=_INK, linestyle="")
    return [
        *(line(label=name, color=colour, linewidth=2) for name, colour in colours.items()),
        *(mark(label=output, **style) for output, style in _MARKS.items()),
        mark(label="between", **_BETWEEN),
        line(label="bicubic", color=_PALE, linestyle="", **_BICUBIC),
    ]
