"""`gdsr-evaluate`: what checkpoints are worth, as a table, as JSON and as a plot.

Scores in a checkpoint's card come from this report, never from a hand.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from model.trainer.pareto import PLACES, check_drawable, draw, place_of

if TYPE_CHECKING:
    import torch

    from model.checkpoint import Checkpoint, Scores
    from model.perceptual import Metric
    from model.trainer.evaluate_folder import Method, Pictures

WEIGHTS_VARIABLE = "GDSR_METRIC_WEIGHTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The scores of one checkpoint; the digest is that of its file."""

    name: str
    sha256: str
    consistency: bool
    """What its card says: whether people get its results back-projected."""
    scores: "Scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was measured, and how; its JSON has the same names."""

    back_projection: bool
    jpeg: int | None
    """Quality that the small pictures were compressed with, or they were not."""
    pictures: Mapping[str, int]
    """Data set -> how many."""
    bicubic: Mapping[str, Mapping[str, float]]
    """Data set -> metric -> value."""
    checkpoints: tuple[Judged, ...]


def read_scores(path: Path, *, sha256: str) -> "Scores":
    """What the JSON of a report says of the checkpoint with this digest.

    A card's scores are of plain bicubic pictures and of what the network gives as it is.

    Raises:
        ValueError: the file is no report, does not say anything of it, or measured otherwise.
        OSError: it cannot be read.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        otherwise = report["back_projection"] or report["jpeg"]
        judged = report["checkpoints"]
        found: list[Scores] = [one["scores"] for one in judged if one["sha256"] == sha256]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no report of gdsr-evaluate") from None
    if otherwise:
        raise ValueError(f"{path} was measured with --jpeg or --backprojection; a card's are not")
    if not found:
        raise ValueError(f"{path} has no scores of the checkpoint {sha256[:12]}")
    return found[0]


def main() -> int:
    """Exit status 0; 1 with one line on stderr; 2 for wrong usage."""
    options = _parser().parse_args()

    # torch takes seconds to import: --help and usage errors come before it.
    from model.process import prepare_process

    prepare_process(None)

    import torch

    from model.trainer.faults import TrainingFault

    try:
        _run(options)
    except (TrainingFault, ValueError, OSError, torch.OutOfMemoryError) as failure:
        reason = str(failure).strip().partition("\n")[0]
        sys.stderr.write(f"gdsr-evaluate: {reason}\n")
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gdsr-evaluate",
        description="Say what checkpoints are worth on folders of photographs.",
        epilog="psnr, fused and gan are always there, and bicubic to compare with.",
    )
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", type=Path)
    parser.add_argument(
        "--data", metavar="DIR", type=Path, action="append", required=True,
        help="a folder of photographs; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--trade-off", metavar="X,...", type=_trade_offs, default=(),
        help="places on the slider, 0 = psnr to 1 = gan, to try as well",
    )  # fmt: skip
    parser.add_argument(
        "--backprojection", action="store_true",
        help="add to each output what it lacks to shrink to the picture it was made from",
    )  # fmt: skip
    parser.add_argument(
        "--jpeg", metavar="QUALITY", type=int, choices=range(1, 101),
        help="compress the small pictures first, as people's are",
    )  # fmt: skip
    parser.add_argument("--json", metavar="OUT", type=Path, help="write all scores here")
    parser.add_argument("--plot", metavar="OUT.png", type=Path, help="draw perception and RMSE-Y")
    parser.add_argument(
        "--metric-weights", metavar="DIR", type=Path,
        default=os.environ.get(WEIGHTS_VARIABLE) or None,
        help=f"where the weights of NIQE, LPIPS and DISTS are (default: ${WEIGHTS_VARIABLE})",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda if there is one, else cpu"
    )
    return parser


def _trade_offs(text: str) -> tuple[float, ...]:
    places = []
    for part in text.split(","):
        try:
            place = place_of(part.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part} is neither a number nor a name") from None
        if not 0 <= place <= 1:
            raise argparse.ArgumentTypeError(f"{part} is outside 0 to 1")
        places.append(place)
    return tuple(places)


def _run(options: argparse.Namespace) -> None:
    from model.perceptual import load_panel
    from model.trainer.evaluate_folder import find_pictures
    from model.trainer.evaluate_table import show

    for path in (options.json, options.plot):
        if path and not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} for {path.name}")
    device = _device(options.device)
    metrics, missing = load_panel(options.metric_weights, device)
    folders = [find_pictures(folder) for folder in options.data]
    unfit = [line for pictures in folders for line in pictures.left_out(metrics)]
    for line in (*missing, *unfit):
        sys.stderr.write(f"gdsr-evaluate: {line}\n")
    if options.plot:
        check_drawable(metric.name for metric in metrics)

    report = _measured(options, folders, metrics, device)
    for judged in report.checkpoints:
        if judged.consistency != report.back_projection:
            given = "with" if judged.consistency else "without"
            sys.stderr.write(f"gdsr-evaluate: people get {judged.name} {given} back-projection\n")
    show(report, metrics)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    if options.plot:
        curves = {judged.name: judged.scores for judged in report.checkpoints}
        draw(options.plot, bicubic=report.bicubic, curves=curves)


def _measured(
    options: argparse.Namespace,
    folders: "Sequence[Pictures]",
    metrics: "Sequence[Metric]",
    device: "torch.device",
) -> Report:
    from model.trainer.evaluate_folder import BICUBIC, Slider, bicubic

    names = [pictures.name for pictures in folders]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two folders are called {min(doubled)}; scores go by that name")
    scored = partial(_scored, folders=folders, metrics=metrics, device=device, jpeg=options.jpeg)
    trade_offs = sorted({*PLACES.values(), *options.trade_off})
    slider = partial(Slider, trade_offs=trade_offs, back_projection=options.backprojection)
    checkpoints = _loaded(options.checkpoints, device)
    return Report(
        back_projection=options.backprojection,
        jpeg=options.jpeg,
        pictures={pictures.name: len(pictures.paths) for pictures in folders},
        bicubic={data: found[BICUBIC] for data, found in scored(bicubic, said=BICUBIC).items()},
        checkpoints=tuple(
            Judged(
                name=name,
                sha256=checkpoint.sha256,
                consistency=checkpoint.card.consistency,
                scores=scored(slider(generator=checkpoint.generator), said=name),
            )
            for name, checkpoint in checkpoints.items()
        ),
    )


def _device(name: str | None) -> "torch.device":
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _loaded(paths: Sequence[Path], device: "torch.device") -> "dict[str, Checkpoint]":
    """By the names in their cards; by their paths where these are the same."""
    from model.checkpoint import CheckpointInvalid, load_checkpoint

    checkpoints = {}
    for path in paths:
        try:
            checkpoints[path] = load_checkpoint(path, device)
        except CheckpointInvalid as invalid:
            raise CheckpointInvalid(f"{path}: {invalid}") from None
    names = [checkpoint.card.name for checkpoint in checkpoints.values()]
    return {
        name if names.count(name) == 1 else str(path): checkpoint
        for name, (path, checkpoint) in zip(names, checkpoints.items(), strict=True)
    }


def _scored(
    method: "Method",
    *,
    folders: "Sequence[Pictures]",
    metrics: "Sequence[Metric]",
    device: "torch.device",
    jpeg: int | None,
    said: str,
) -> "Scores":
    from rich.console import Console
    from rich.progress import track

    from model.trainer.evaluate_folder import evaluate

    console = Console(stderr=True)
    return {
        pictures.name: evaluate(
            method,
            track(
                pictures.read(device),
                description=f"{said}, {pictures.name}",
                total=len(pictures.paths),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ),
            [metric for metric in metrics if pictures.suit(metric)],
            jpeg=jpeg,
        )
        for pictures in folders
    }


if __name__ == "__main__":
    sys.exit(main())
