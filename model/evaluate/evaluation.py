"""An evaluation: scores checkpoints, other networks and bicubic on all data sets."""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from model.checkpoint import CheckpointInvalid, load_checkpoint
from model.esrgan import load_esrgan
from model.evaluate.folder import MethodResults, evaluate, overshoots
from model.evaluate.methods import (
    BICUBIC,
    Method,
    bicubic,
    of_generator,
    of_peer,
    unrounded_bicubic,
)
from model.evaluate.pareto import NAMED_POSITIONS, check_drawable, draw
from model.evaluate.pictures import Pictures, find_pairs, find_pictures
from model.evaluate.report import Character, CheckpointScores, PeerScores, Report, show
from model.files import check_writable
from model.metrics.perceptual import Metric, load_metrics

Loaded = TypeVar("Loaded")


def run(options: argparse.Namespace) -> None:
    """Evaluate as the command line says, and print, store and plot the report.

    Raises:
        ValueError, TrainingError: an option does not fit, or a picture or checkpoint is unusable.
        OSError: a file cannot be read or written.
    """
    for path in filter(None, (options.json, options.plot)):
        check_writable(path)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    metrics, missing = load_metrics(options.metric_weights, device)
    sets = [find_pictures(folder) for folder in options.data]
    sets += [find_pairs(small, large) for small, large in options.pairs]
    _warn([*missing, *(line for pictures in sets for line in pictures.not_measurable(metrics))])
    if options.plot:
        check_drawable(options.plot, [metric.name for metric in metrics])

    report = _measured(options, sets, metrics, device)
    _warn(
        f"the service uses {one.name} {'with' if one.consistency else 'without'} back-projection"
        for one in report.checkpoints
        if one.consistency != report.back_projection
    )
    show(report, metrics)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    if options.plot:
        curves = {checkpoint.name: checkpoint.scores for checkpoint in report.checkpoints}
        draw(options.plot, bicubic=report.bicubic, curves=curves)


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"gdsr-evaluate: {line}\n")


def _measured(
    options: argparse.Namespace,
    sets: Sequence[Pictures],
    metrics: Sequence[Metric],
    device: torch.device,
) -> Report:
    names = [pictures.name for pictures in sets]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two data sets are called {min(doubled)}; scores are listed by name")
    checkpoints = _loaded(options.checkpoints, partial(load_checkpoint, device=device))
    peers = _loaded(options.peer, load_esrgan)
    # A name that is shared is replaced by the path.
    given = {path: checkpoint.card.name for path, checkpoint in checkpoints.items()}
    given |= {path: path.stem for path in peers}
    counted = [BICUBIC, *given.values()]
    called = {path: str(path) if counted.count(name) > 1 else name for path, name in given.items()}

    corrected = options.backprojection
    methods: dict[str, Method] = {BICUBIC: bicubic}
    for path, network in peers.items():
        methods[called[path]] = partial(
            of_peer, network=network.to(device), name=called[path], back_projection=corrected
        )
    for path, checkpoint in checkpoints.items():
        methods[called[path]] = partial(
            of_generator, generator=checkpoint.generator, back_projection=corrected
        )
    positions = sorted({*NAMED_POSITIONS.values(), *options.trade_off})
    sliders = {called[path] for path in checkpoints}
    found: dict[str, dict[str, MethodResults]] = {}
    character: dict[str, Character] = {}
    for name, method in methods.items():
        found[name] = {
            pictures.name: evaluate(
                method,
                track(
                    pictures.read(device, jpeg=options.jpeg, light=bool(options.degrade)),
                    description=escape(f"{name}, {pictures.name}"),
                    total=len(pictures.paths),
                    console=(console := Console(stderr=True)),
                    transient=True,
                    disable=not console.is_terminal,
                ),
                [metric for metric in metrics if pictures.are_large_enough(metric.smallest)],
                trade_offs=positions if name in sliders else (),
            )
            for pictures in sets
        }
        character[name] = Character(
            places={data: each.places for data, each in found[name].items()},
            slider={data: each.slider for data, each in found[name].items() if each.slider},
            mask={data: each.mask for data, each in found[name].items() if each.mask},
            overshoot=overshoots(unrounded_bicubic if name == BICUBIC else method, device),
        )
    plain = found[BICUBIC]
    return Report(
        back_projection=corrected,
        jpeg=options.jpeg,
        degrade=options.degrade,
        pairs=tuple(pictures.name for pictures in sets if pictures.small),
        pictures={pictures.name: len(pictures.paths) for pictures in sets},
        original={data: each.original for data, each in plain.items()},
        bicubic={data: each.scores[BICUBIC] for data, each in plain.items()},
        peers=tuple(
            PeerScores(
                name=(name := called[path]),
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                scores={data: each.scores[name] for data, each in found[name].items()},
            )
            for path in peers
        ),
        checkpoints=tuple(
            CheckpointScores(
                name=called[path],
                sha256=checkpoint.sha256,
                consistency=checkpoint.card.consistency,
                scores={data: each.scores for data, each in found[called[path]].items()},
            )
            for path, checkpoint in checkpoints.items()
        ),
        character=character,
    )


def _loaded(paths: Iterable[Path], load: Callable[[Path], Loaded]) -> dict[Path, Loaded]:
    loaded = {}
    for path in paths:
        try:
            loaded[path] = load(path)
        except CheckpointInvalid as invalid:
            raise CheckpointInvalid(f"{path}: {invalid}") from None
    return loaded
