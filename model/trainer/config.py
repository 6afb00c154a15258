"""The configuration of a run: the tables and keys of a preset and their meaning.

Names and defaults are here, values are in `presets/*/*.toml`. Losses are weighted per output; an
output without any weight is not computed. Sides and margins are in low-resolution pixels.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from model.gdsr import OUTPUTS, PRESETS, GDSRConfig, Output
from model.trainer.degradations.degradations import Degradation
from model.trainer.errors import ConfigInvalid
from model.trainer.losses import Game

SHARD = 16
"""Number of pictures in a shard of the teacher's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Weight of a loss for each output."""

    psnr: float = 0.0
    gan: float = 0.0
    fused: float = 0.0

    def of(self, output: Output) -> float:
        weight: float = getattr(self, output)
        return weight

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs with a weight."""
        return tuple(output for output in OUTPUTS if self.of(output))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Duration and random seed."""

    name: str
    steps: int
    minutes: float = 0.0
    """Time budget including validation, which the schedule follows; 0: none."""
    seed: int = 0
    save_every: int = 1000
    log_every: int = 50
    tensorboard: bool = False
    licence: str = "unknown"
    """Licence of the weights, an SPDX identifier for the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """The network and its initialisation."""

    preset: str = ""
    """`paper`, `base` or `lite`."""
    size: GDSRConfig | None = None
    """Instead of a preset."""
    init: str = ""
    """A checkpoint to start from; unset: He initialisation times `init_scale`."""
    init_scale: float = 0.1
    train: Literal["all", "lf", "hf", "mask"] = "all"
    """`lf` trains only the part of the psnr branch that gan does not depend on, so gan does not
    change. `hf` freezes everything that psnr depends on. `mask` trains only the mask and the
    convolution behind it, so psnr and gan do not change.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Photographs, and the patches cut from them."""

    hr_dir: str = ""
    val_dir: str = ""
    """For validation; unset: some photographs of `hr_dir` are held out."""
    hold_out: int = 12
    patch: int = 48
    batch: int = 16
    """Patches per step, over all processes."""
    keep: Literal["auto", "device", "host", "file"] = "auto"
    """Location of decoded pixels: on the device, in memory behind a loader, or in a mapped file."""
    patterns: float = 0.0
    """Share of patches replaced by generated patterns, screen tones and flat areas."""
    mirror: int = 0
    """Mirrored context around a patch, as at the border of a picture during inference; cropped from
    the outputs.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher network, and the cache of its outputs."""

    file: str = ""
    """A checkpoint of this project, or an ESRGAN-class `.pth`, `.safetensors` or ncnn pair; unset:
    the cache was made by another program.
    """
    cache: str = ""
    """Folder of the cache; unset: `teacher` in the run's folder."""
    pictures: int = 1024
    side: int = 104
    """Side of a small picture."""
    output: Literal["gan", "psnr"] = "gan"
    """The output that teaches, if the teacher is a checkpoint of this project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A term of the loss, with a weight for each output."""

    weights: Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill(Term):
    """L1 loss to the teacher's output, of pixels and of frequencies.

    Frequencies are the two-dimensional Fourier transform of a patch, orthonormal, so that both
    terms have the same magnitude.
    """

    frequency: float = 0.0
    """Weight of the frequency term relative to the pixel term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """L1 loss of the fusion mask to the local amount of texture in the photograph."""

    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dists(Term):
    """DISTS, a distance of structure and texture (`model.metrics.dists`)."""

    target: Literal["photograph", "teacher"] = "photograph"
    folder: str = ""
    """Folder with the weights of VGG16 and DISTS; unset: GDSR_METRIC_WEIGHTS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceptual(Term):
    """Perceptual loss: L1 of VGG features."""

    taps: dict[str, float]
    """Convolution -> weight, for VGG16 or VGG19, depending on the file."""
    file: str = ""
    """Weights of VGG; unset: the file that GDSR_VGG_WEIGHTS names."""
    target: Literal["photograph", "teacher"] = "photograph"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversarial(Term):
    """A discriminator and the kind of adversarial loss."""

    game: Game
    discriminator: Literal["vgg", "unet"]
    features: int = 64
    learning_rate: float = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The terms of the generator's loss, which is their sum."""

    pixel: Term
    """L1 loss of pixels."""
    distill: Distill | None = None
    colour: Term | None = None
    """L1 loss to the photograph of means over 32x32 pixels. Pixel losses are insensitive to a small
    shift of all pixels, which is visible.
    """
    mask: Mask | None = None
    dists: Dists | None = None
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None
    margin: int = 0
    """Pixels that the losses ignore at each side of a patch."""
    back_projection: bool = False
    """Apply one step of back-projection to the outputs before the losses."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs with a weight in some loss."""
        terms = (
            self.pixel, self.distill, self.colour, self.dists, self.perceptual, self.adversarial,
        )  # fmt: skip
        wanted = {output for term in terms if term for output in term.weights.outputs}
        return tuple(output for output in OUTPUTS if output in wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """The optimiser, its schedule, and the moving average of the weights."""

    learning_rate: float
    kind: Literal["adam", "soap"] = "adam"
    """Optimiser of the generator. `soap` (arXiv:2409.11321) learns more in each step of a small
    batch, at about three times the learning rate; its steps are not captured in a CUDA graph.
    """
    schedule: Literal["cosine", "multistep"] = "cosine"
    warmup: int = 0
    """Warm-up steps of the learning rate."""
    final: float = 0.0
    """Final learning rate of the cosine schedule, relative to the initial one."""
    milestones: tuple[float, ...] = ()
    """Progress after which the rate is halved each time."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 0.0
    """Maximum norm of the generator's gradient; 0: no clipping."""
    ema: float = 0.999
    """Decay of the moving average per step; 0 keeps the last weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device; `compile` and `graph` are for CUDA only."""

    name: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """CPUs on which bfloat16 is not faster use float32 regardless."""
    compile: bool = True
    graph: bool = True
    """Capture the step in a CUDA graph (single process only)."""
    channels_last: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Held-out pictures that are upscaled periodically."""

    every: int = 1000
    pictures: int = 12
    crop: int = 0
    """Side of the centre crop, in high-resolution pixels, at least 64; 0: the whole picture."""
    samples: int = 4
    """Number of pictures in the sample strip."""
    jpeg_quality: int = 0
    """JPEG quality of the small pictures; 0: not compressed."""
    best: Literal["psnr", "gan", "fused", "last"] = "psnr"
    """The output whose PSNR-Y selects the best state, or always the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The configuration of a run."""

    run: Run
    generator: Generator
    data: Data
    losses: Losses
    optimiser: Optimiser
    degradation: Degradation | None = None
    """Unset: bicubic."""
    teacher: Teacher | None = None
    """If set, batches are cut from its cache."""
    device: Device = field(default_factory=Device)
    validation: Validation = field(default_factory=Validation)

    @property
    def data_of_cache(self) -> Data:
        """How pictures of the teacher's cache are cut from photographs."""
        return (
            replace(self.data, patch=self.teacher.side, batch=SHARD, patterns=0.0)
            if self.teacher
            else self.data
        )

    @property
    def network(self) -> GDSRConfig:
        """The network size of the generator.

        Raises:
            ConfigInvalid: neither `preset` nor `size` is given, or both are.
        """
        chosen = self.generator
        if bool(chosen.preset) == (chosen.size is not None):
            raise ConfigInvalid("generator: give either preset or size")
        if chosen.size is not None:
            return chosen.size
        if chosen.preset not in PRESETS:
            raise ConfigInvalid(
                f"generator.preset is {chosen.preset!r}; it is one of {', '.join(PRESETS)}"
            )
        return PRESETS[chosen.preset]
