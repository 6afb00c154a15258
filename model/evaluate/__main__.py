"""`gdsr-evaluate`: scores checkpoints, as a table, as JSON and as a plot.

The scores in a checkpoint's card come from this report and are never written by hand.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from model.evaluate.pareto import PLACES, check_drawable, draw, place_of
from model.evaluate.report import Character, CheckpointScores, PeerScores, Report

if TYPE_CHECKING:
    import torch

    from model.evaluate.folder import MethodResults
    from model.evaluate.methods import Method
    from model.evaluate.pictures import Pair, Pictures
    from model.metrics.perceptual import Metric

WEIGHTS_VARIABLE = "GDSR_METRIC_WEIGHTS"
Loaded = TypeVar("Loaded")


def main() -> int:
    """The console script. Exit status 0; 1 with one line on stderr; 2 for wrong usage."""
    parser = _parser()
    options = parser.parse_args()
    if not options.data and not options.pairs:
        parser.error("nothing to evaluate: give --data DIR or --pairs LR_DIR HR_DIR")

    # Imported late to keep --help and usage errors fast: torch takes seconds.
    from model.process import prepare_process

    prepare_process(None)

    import torch

    from model.trainer.errors import TrainingError

    try:
        _run(options)
    except (TrainingError, ValueError, OSError, torch.OutOfMemoryError) as failure:
        reason = str(failure).strip().partition("\n")[0]
        sys.stderr.write(f"gdsr-evaluate: {reason}\n")
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gdsr-evaluate",
        description="Score checkpoints on folders of photographs.",
        epilog="psnr, fused and gan are always evaluated, and bicubic for comparison.",
    )
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", type=Path)
    parser.add_argument(
        "--data", metavar="DIR", type=Path, action="append", default=[],
        help="a folder of photographs, which are downscaled; may be repeated (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", metavar=("LR_DIR", "HR_DIR"), type=Path, nargs=2, action="append", default=[],
        help=(
            "a folder of small pictures, and one with the same pictures, by name, 4 times as "
            "large; may be repeated (default: none)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--peer", metavar="FILE", type=Path, action="append", default=[],
        help=(
            "ESRGAN or Real-ESRGAN x4plus weights to compare with; may be repeated (default: none)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--trade-off", metavar="X,...", type=_trade_offs, default=(),
        help="additional slider positions, 0 = psnr to 1 = gan (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--backprojection", action="store_true",
        help="apply back-projection to each output, so that it downscales to its input",
    )  # fmt: skip
    degraded = parser.add_mutually_exclusive_group()
    degraded.add_argument(
        "--jpeg", metavar="QUALITY", type=int, choices=range(1, 101),
        help="compress the small pictures of --data first, with this JPEG quality (default: not)",
    )  # fmt: skip
    degraded.add_argument(
        "--degrade", choices=("light",),
        help=(
            "make the small pictures of --data with the trainer's light recipe (slight blur, "
            "noise and JPEG), the same for every checkpoint (default: none)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--json",
        metavar="OUT",
        type=Path,
        help="write all scores to this JSON file (default: none)",
    )
    parser.add_argument(
        "--plot",
        metavar="OUT.png",
        type=Path,
        help="plot perception against RMSE-Y (default: none)",
    )
    parser.add_argument(
        "--metric-weights", metavar="DIR", type=Path,
        default=os.environ.get(WEIGHTS_VARIABLE) or None,
        help=f"folder with the weights of NIQE, LPIPS and DISTS (default: ${WEIGHTS_VARIABLE})",
    )  # fmt: skip
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where to compute (default: cuda if available, else cpu)",
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
    from model.evaluate.pictures import find_pairs, find_pictures
    from model.evaluate.table import show
    from model.metrics.perceptual import load_panel

    for path in (options.json, options.plot):
        if path and not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} for {path.name}")
    device = _device(options.device)
    metrics, missing = load_panel(options.metric_weights, device)
    sets = [find_pictures(folder) for folder in options.data]
    sets += [find_pairs(small, large) for small, large in options.pairs]
    unfit = [line for pictures in sets for line in pictures.left_out(metrics)]
    for line in (*missing, *unfit):
        sys.stderr.write(f"gdsr-evaluate: {line}\n")
    if options.plot:
        check_drawable(metric.name for metric in metrics)

    report = _measured(options, sets, metrics, device)
    for judged in report.checkpoints:
        if judged.consistency != report.back_projection:
            given = "with" if judged.consistency else "without"
            sys.stderr.write(
                f"gdsr-evaluate: the service uses {judged.name} {given} back-projection\n"
            )
    show(report, metrics)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    if options.plot:
        curves = {judged.name: judged.scores for judged in report.checkpoints}
        draw(options.plot, bicubic=report.bicubic, curves=curves)


def _measured(
    options: argparse.Namespace,
    sets: "Sequence[Pictures]",
    metrics: "Sequence[Metric]",
    device: "torch.device",
) -> Report:
    from model.checkpoint import load_checkpoint
    from model.esrgan import load_esrgan
    from model.evaluate.folder import overshoots
    from model.evaluate.methods import BICUBIC, bicubic, of_generator, of_peer, unrounded_bicubic
    from model.evaluate.pictures import Pictures

    names = [pictures.name for pictures in sets]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two data sets are called {min(doubled)}; scores are listed by name")
    checkpoints = _loaded(options.checkpoints, partial(load_checkpoint, device=device))
    peers = _loaded(options.peer, load_esrgan)
    cards = [(path, checkpoint.card.name) for path, checkpoint in checkpoints.items()]
    called = _named([*cards, *((path, path.stem) for path in peers)], reserved=BICUBIC)

    read = partial(Pictures.read, device=device, jpeg=options.jpeg, light=bool(options.degrade))
    found = partial(_found, sets=sets, metrics=metrics, read=read)
    places = sorted({*PLACES.values(), *options.trade_off})
    plain = found(bicubic, said=BICUBIC)
    character = {BICUBIC: _character(plain, overshoots(unrounded_bicubic, device))}
    compared, judged = [], []
    corrected = options.backprojection
    for path, network in peers.items():
        name = called[path]
        method: Method = partial(
            of_peer, network=network.to(device), name=name, back_projection=corrected
        )
        findings = found(method, said=name)
        scores = {data: each.scores[name] for data, each in findings.items()}
        compared.append(PeerScores(name=name, sha256=_digest(path), scores=scores))
        character[name] = _character(findings, overshoots(method, device))
    for path, checkpoint in checkpoints.items():
        name = called[path]
        method = partial(of_generator, generator=checkpoint.generator, back_projection=corrected)
        findings = found(method, said=name, trade_offs=places)
        judged.append(
            CheckpointScores(
                name=name,
                sha256=checkpoint.sha256,
                consistency=checkpoint.card.consistency,
                scores={data: each.scores for data, each in findings.items()},
            )
        )
        character[name] = _character(findings, overshoots(method, device))
    return Report(
        back_projection=corrected,
        jpeg=options.jpeg,
        degrade=options.degrade,
        pairs=tuple(pictures.name for pictures in sets if pictures.small),
        pictures={pictures.name: len(pictures.paths) for pictures in sets},
        original={data: each.original for data, each in plain.items()},
        bicubic={data: each.scores[BICUBIC] for data, each in plain.items()},
        peers=tuple(compared),
        checkpoints=tuple(judged),
        character=character,
    )


def _device(name: str | None) -> "torch.device":
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _loaded(paths: Iterable[Path], load: Callable[[Path], Loaded]) -> dict[Path, Loaded]:
    from model.checkpoint import CheckpointInvalid

    loaded = {}
    for path in paths:
        try:
            loaded[path] = load(path)
        except CheckpointInvalid as invalid:
            raise CheckpointInvalid(f"{path}: {invalid}") from None
    return loaded


def _named(names: Iterable[tuple[Path, str]], *, reserved: str) -> dict[Path, str]:
    """A unique name for each file: the given one, or its path if that is shared or `reserved`."""
    given = list(names)
    counted = [reserved, *(name for _, name in given)]
    return {path: name if counted.count(name) == 1 else str(path) for path, name in given}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _character(
    found: "Mapping[str, MethodResults]", overshoot: Mapping[str, Mapping[str, float]]
) -> Character:
    return Character(
        places={data: each.places for data, each in found.items()},
        slider={data: each.slider for data, each in found.items() if each.slider},
        mask={data: each.mask for data, each in found.items() if each.mask},
        overshoot=overshoot,
    )


def _found(
    method: "Method",
    *,
    sets: "Sequence[Pictures]",
    metrics: "Sequence[Metric]",
    read: "Callable[[Pictures], Iterable[Pair]]",
    said: str,
    trade_offs: Sequence[float] = (),
) -> "dict[str, MethodResults]":
    """Evaluate a method on each data set."""
    from rich.console import Console
    from rich.progress import track

    from model.evaluate.folder import evaluate

    console = Console(stderr=True)
    return {
        pictures.name: evaluate(
            method,
            track(
                read(pictures),
                description=f"{said}, {pictures.name}",
                total=len(pictures.paths),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ),
            [metric for metric in metrics if pictures.suit(metric.smallest)],
            trade_offs=trade_offs,
        )
        for pictures in sets
    }


if __name__ == "__main__":
    sys.exit(main())
