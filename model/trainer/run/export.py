"""Exports a run's best weights for publication: float16, with a model card and scores.

Scores come from an evaluation report of the same file, matched by digest: export without scores,
evaluate, and export again, which changes only the card.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from model.checkpoint import (
    Card,
    Scores,
    check_finite,
    load_checkpoint,
    read_header,
    read_tensors,
    replace_card,
    save_checkpoint,
)
from model.files import check_writable
from model.gdsr import GDSR
from model.trainer.errors import TrainingError, reading, writing
from model.trainer.fusion import fit_fusion
from model.trainer.run.run import BEST


def export(
    run: Path,
    target: Path,
    *,
    report: Path | None,
    name: str | None,
    licence: str | None,
    photographs: Path | None = None,
) -> Card:
    """Write `target` from a run or a checkpoint; returns its card.

    With the `report` of an evaluation, the existing `target` gets its scores. With `photographs`
    the fusion is fitted (`model.trainer.fusion`).

    Raises:
        TrainingError: there is no checkpoint to export, the report has no scores of it, there are
            no photographs, or writing the target failed.
        OSError: the target cannot be written, as the check at the start found; or a file cannot be
            read.
    """
    check_writable(target)  # before the fit, which takes a minute
    source = run / BEST if run.is_dir() else run
    with reading(str(source)):
        checkpoint = load_checkpoint(source)
    card = replace(
        checkpoint.card,
        name=name or target.stem,
        licence=licence or checkpoint.card.licence,
        scores={},
    )
    if photographs is not None:
        fit_fusion(checkpoint.generator, photographs)
        card = replace(card, training=f"{card.training}; fusion fitted by least squares")
    generator = checkpoint.generator.half()
    with reading(str(source)):
        check_finite(generator)
    if report is not None:
        card = replace(card, scores=_scores(report, target, generator))
    with writing(target):
        if report is None:
            save_checkpoint(target, generator, card)
        else:
            replace_card(target, card)
    return card


def _scores(report: Path, target: Path, generator: GDSR) -> Scores:
    """The scores of the file `target` in a report; it must hold the weights of `generator`."""
    with reading(str(target)):
        digest, tensors = read_header(target).sha256, read_tensors(target)
    expected = generator.state_dict()
    if tensors.keys() != expected.keys() or not all(
        torch.equal(tensors[name], expected[name]) for name in expected
    ):
        raise TrainingError(f"{target} holds other weights: export them first, then evaluate")
    return read_scores(report, sha256=digest)


def read_scores(path: Path, *, sha256: str) -> Scores:
    """The scores in a JSON report of the checkpoint with this digest.

    A card's scores are for bicubic pictures and for outputs without back-projection.

    Raises:
        TrainingError: the file is not a report, has no such checkpoint, or used other settings.
        OSError: the file cannot be read.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        measured = ("back_projection", "jpeg", "degrade", "pairs")
        otherwise = any(report[name] for name in measured)
        checkpoints = report["checkpoints"]
        found: list[Scores] = [one["scores"] for one in checkpoints if one["sha256"] == sha256]
    except (KeyError, TypeError, ValueError):
        raise TrainingError(f"{path} is not a report of gdsr-evaluate") from None
    if otherwise:
        raise TrainingError(
            f"{path} was measured with --jpeg, --degrade, --pairs or --backprojection, "
            "which a card's scores are not: evaluate without"
        )
    if not found:
        raise TrainingError(
            f"{path} has no scores of the checkpoint {sha256[:12]}: evaluate it as it is now"
        )
    return found[0]
