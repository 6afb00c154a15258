"""The networks of a run, and their optimisers."""

import copy
import os
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from model.blocks import RRDB
from model.checkpoint import SHIPPED, check_finite, load_checkpoint
from model.gdsr import GDSR, SCALE
from model.metrics.dists import DISTS
from model.metrics.vgg import VGG
from model.reference import read_reference
from model.trainer.config import Dists, Generator, Perceptual, TrainConfig
from model.trainer.errors import ConfigInvalid, TrainingError, reading
from model.trainer.step.discriminators import UNetDiscriminator, VGGDiscriminator
from model.trainer.step.soap import SOAP

VGG_WEIGHTS = "GDSR_VGG_WEIGHTS"
METRIC_WEIGHTS = "GDSR_METRIC_WEIGHTS"
_SHARED = ("first", "shared", "guide")
_LF = ("lf", "lf_to_rgb")
_HF = ("hf_extract", "hf_merge", "hf", "hf_to_rgb")
_FROZEN = {
    "all": (),
    "lf": (*_SHARED, *_HF, "mask", "fused_to_rgb"),
    "hf": (*_SHARED, *_LF),
    "mask": (*_SHARED, *_LF, *_HF),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The generator, its moving average, the discriminator and the loss networks."""

    generator: GDSR
    average: GDSR
    discriminator: nn.Module | None
    features: VGG | None
    dists: DISTS | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisers:
    """The optimiser of each trained network."""

    generator: torch.optim.Optimizer
    discriminator: torch.optim.Optimizer | None


def build_networks(config: TrainConfig, device: torch.device) -> Networks:
    """Build all networks of a run on `device`, from its seed and its files.

    Raises:
        ConfigInvalid: no VGG weights are configured, or they have no such tap.
        TrainingError: a file of weights is missing or does not fit the network.
    """
    torch.manual_seed(config.run.seed)
    generator = _generator(config)
    for name in _FROZEN[config.generator.train]:
        generator.get_submodule(name).requires_grad_(requires_grad=False)
    losses = config.losses
    discriminator: nn.Module | None = None
    average = copy.deepcopy(generator).requires_grad_(requires_grad=False).eval()
    if losses.adversarial:
        features = losses.adversarial.features
        if losses.adversarial.discriminator == "vgg":
            side = SCALE * (config.data.patch - 2 * losses.margin)
            discriminator = VGGDiscriminator(side=side, features=features)
        else:
            discriminator = UNetDiscriminator(features=features)
    networks = Networks(
        generator=generator,
        average=average,
        discriminator=discriminator,
        features=_features(losses.perceptual) if losses.perceptual else None,
        dists=_dists(losses.dists) if losses.dists else None,
    )
    layout = torch.channels_last if config.device.channels_last else torch.contiguous_format
    for field in fields(networks):
        if (network := getattr(networks, field.name)) is not None:
            network.to(device=device, memory_format=layout)
    if config.device.compile and device.type == "cuda":
        for part in generator.modules():
            if isinstance(part, RRDB):
                part.compile()  # names in the state dict stay the same
    return networks


def build_optimisers(config: TrainConfig, networks: Networks, device: torch.device) -> Optimisers:
    """The optimiser of the generator's trainable parameters, and Adam for the discriminator."""

    def adam(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        if device.type != "cuda":
            return torch.optim.Adam(parameters, lr=rate, betas=config.optimiser.betas)
        # A rate in device memory can change between replays of a captured step.
        return torch.optim.Adam(
            parameters,
            lr=torch.tensor(rate, device=device),
            betas=config.optimiser.betas,
            fused=True,
            capturable=True,
        )

    adversarial, discriminator = config.losses.adversarial, networks.discriminator
    trained = [each for each in networks.generator.parameters() if each.requires_grad]
    rate, betas = config.optimiser.learning_rate, config.optimiser.betas
    soap = config.optimiser.kind == "soap"
    return Optimisers(
        generator=SOAP(trained, lr=rate, betas=betas) if soap else adam(trained, rate),
        discriminator=(
            adam(list(discriminator.parameters()), adversarial.learning_rate)
            if adversarial and discriminator
            else None
        ),
    )


def init_file(init: str) -> Path:
    """The checkpoint at that path, or the shipped one of that name."""
    path, shipped = Path(init), SHIPPED / f"{init}.safetensors"
    return path if path.is_file() or not shipped.is_file() else shipped


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate from the next step on."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _generator(config: TrainConfig) -> GDSR:
    chosen: Generator = config.generator
    if not chosen.init:
        generator = GDSR(config.network)
        for part in generator.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight).data.mul_(chosen.init_scale)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]  # all have one
        return generator
    with reading("generator.init"):
        checkpoint = load_checkpoint(init_file(chosen.init))
        check_finite(checkpoint.generator)
    if checkpoint.config != config.network:
        raise TrainingError(
            f"generator.init: {chosen.init} is another network: it has {checkpoint.config}, "
            f"the run has {config.network}"
        )
    return checkpoint.generator.train()


def _features(perceptual: Perceptual) -> VGG:
    file = perceptual.file or os.environ.get(VGG_WEIGHTS, "")
    if not file:
        raise ConfigInvalid(
            f"the perceptual loss needs VGG weights: set losses.perceptual.file or {VGG_WEIGHTS}"
        )
    try:
        with reading("VGG weights"):
            return VGG(read_reference(Path(file)), tuple(perceptual.taps))
    except ValueError as error:
        raise ConfigInvalid(f"losses.perceptual.taps: {error}") from None


def _dists(dists: Dists) -> DISTS:
    folder = dists.folder or os.environ.get(METRIC_WEIGHTS, "")
    if not folder:
        raise ConfigInvalid(
            f"the loss dists needs weights: set losses.dists.folder or {METRIC_WEIGHTS}"
        )
    names = ("vgg16_features.safetensors", "dists_alpha_beta.safetensors")
    with reading("weights of DISTS"):
        return DISTS(*(read_reference(Path(folder) / name) for name in names))
