"""The model card of a run: facts of the training in words, without scores.

Scores come from an evaluation of the exported file (`export`), never from here.
"""

from dataclasses import asdict
from pathlib import Path

from model.checkpoint import Card, read_header
from model.trainer.config import Term, TrainConfig
from model.trainer.run.state import TrainState
from model.trainer.step.networks import init_file

_FROZEN = {
    "lf": "only the psnr branch behind the shared features trained",
    "hf": "low-frequency branch frozen",
    "mask": "all but the mask frozen",
}


def card_of(config: TrainConfig, train_state: TrainState, *, photographs: int) -> Card:
    """The card of the current weights."""
    return Card(
        name=config.run.name,
        training=_training(config, train_state),
        data=_data(config, photographs),
        scores={},
        licence=config.run.licence,
        consistency=config.degradation is None,
    )


def origin_of(config: TrainConfig) -> str:
    """Name and training of the checkpoint that the run starts from; empty if there is none."""
    if not config.generator.init:
        return ""
    card = read_header(init_file(config.generator.init)).card
    return f"{card.name} ({card.training})"


def _training(config: TrainConfig, train_state: TrainState) -> str:
    data, losses = config.data, config.losses
    terms: dict[str, Term | None] = {"pixel": losses.pixel}
    if config.teacher:
        name = Path(config.teacher.file).stem or "another program's pictures"
        terms[f"distillation from {name}"] = losses.distill
    terms |= {"colour": losses.colour, "DISTS": losses.dists, "perceptual": losses.perceptual}
    if losses.adversarial:
        kind = {"vgg": "VGG", "unet": "U-Net"}[losses.adversarial.discriminator]
        terms[f"{losses.adversarial.game} adversarial with a {kind}"] = losses.adversarial
    names = [
        f"{name} ({', '.join(term.weights.outputs)})"
        for name, term in terms.items()
        if term and term.weights.outputs
    ]
    if losses.mask:
        names.append("texture (mask)")
    sentences = [
        f"{train_state.step:,} steps of {data.batch} patches of {data.patch}x{data.patch} pixels",
        f"losses: {', '.join(names)}",
    ]
    if train_state.origin:
        sentences.append(f"started from {train_state.origin}")
    if config.generator.train in _FROZEN:
        sentences.append(_FROZEN[config.generator.train])
    if config.optimiser.ema:
        sentences.append(f"weights averaged with {config.optimiser.ema}")
    sentences.append(f"{train_state.elapsed / 60:.1f} minutes")
    return "; ".join(sentences)


def _data(config: TrainConfig, photographs: int) -> str:
    made = "the protocol's bicubic"
    if config.degradation:
        shares = asdict(config.degradation.shares)
        whole = sum(shares.values())
        made = ", ".join(f"{value / whole:.0%} {way}" for way, value in shares.items() if value)
        made = f"these degradations: {made}"
    folder = Path(config.data.hr_dir).name
    return f"{photographs:,} photographs of the folder {folder}, made smaller by {made}"
