"""The configuration of a run: what the tables of a preset may say, and what they mean.

Names and defaults are here, values are in `presets/*.toml`. Losses are weighted per output; an
output without any weight is not computed. Sides and margins are in low-resolution pixels.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from model.gdsr import OUTPUTS, PRESETS, GDSRConfig, Output
from model.trainer.degradations.degradations import Degradation
from model.trainer.errors import ConfigInvalid
from model.trainer.losses import Game

SHARD = 16
"""Pictures in a shard of a teacher's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much a loss counts for each output."""

    psnr: float = 0.0
    gan: float = 0.0
    fused: float = 0.0

    def of(self, output: Output) -> float:
        weight: float = getattr(self, output)
        return weight

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs that it counts for."""
        return tuple(output for output in OUTPUTS if self.of(output))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How long to train, and from which random numbers."""

    name: str
    steps: int
    minutes: float = 0.0
    """A budget in time, validations included, that the schedule follows; 0 is none."""
    seed: int = 0
    save_every: int = 1000
    log_every: int = 50
    tensorboard: bool = False
    licence: str = "unknown"
    """Of the weights, an SPDX identifier for the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """Which network, and from where it starts."""

    preset: str = ""
    """`paper`, `base` or `lite`."""
    size: GDSRConfig | None = None
    """In place of a preset."""
    init: str = ""
    """A checkpoint to start from; without one, He's initialisation times `init_scale`."""
    init_scale: float = 0.1
    train: Literal["all", "hf", "mask"] = "all"
    """`hf` keeps all that the psnr output depends on as it is; of `mask` only the mask and the
    convolution behind it learn, so psnr and gan stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Photographs, and the patches cut from them."""

    hr_dir: str = ""
    val_dir: str = ""
    """For validation; without one, some photographs of `hr_dir` are held out."""
    hold_out: int = 12
    patch: int = 48
    batch: int = 16
    """Patches in a step, over all processes."""
    keep: Literal["auto", "device", "host", "file"] = "auto"
    """Where decoded pixels are: on the device, in memory behind a loader, or in a mapped file."""
    patterns: float = 0.0
    """The share of patches that are generated patterns, screen tones and flats instead."""
    mirror: int = 0
    """Context that is mirrored around a patch, as the border of a picture is when it is enlarged,
    and cut from the outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A network whose pictures are learned from, and the cache of them."""

    file: str = ""
    """A checkpoint of this project, an ESRGAN-class `.pth`, `.safetensors` or ncnn pair; without
    one, another program made the pictures."""
    cache: str = ""
    """The folder of the pictures; without one, `teacher` in the run's folder."""
    pictures: int = 1024
    side: int = 104
    """Of a small picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixel:
    """The mean absolute difference of pixels."""

    weights: Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill:
    """The mean absolute difference to the teacher's picture, of pixels and of frequencies.

    The frequencies are those of the two-dimensional Fourier transform of a patch, with the
    orthonormal scaling, so that both terms are of one magnitude.
    """

    weights: Weights
    frequency: float = 0.0
    """The weight of the frequencies beside that of the pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """The mean absolute difference to the photograph of means over 32x32 pixels.

    Pixel losses see a small shift of all pixels hardly at all, people do.
    """

    weights: Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Dists:
    """DISTS, the distance of structure and texture (`model.metrics.dists`), to the photograph."""

    weights: Weights
    folder: str = ""
    """Of the weights of VGG16 and of DISTS; without one, GDSR_METRIC_WEIGHTS names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceptual:
    """The mean absolute difference of VGG features."""

    weights: Weights
    taps: dict[str, float]
    """Convolution -> weight; VGG16's or VGG19's, as the file has them."""
    file: str = ""
    """Weights of the convolutions; without one, GDSR_VGG_WEIGHTS names the file."""
    target: Literal["photograph", "teacher"] = "photograph"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversarial:
    """A discriminator, and the game played with it."""

    weights: Weights
    game: Game
    discriminator: Literal["vgg", "unet"]
    features: int = 64
    learning_rate: float = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The terms whose sum the generator makes small."""

    pixel: Pixel
    distill: Distill | None = None
    colour: Colour | None = None
    dists: Dists | None = None
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None
    margin: int = 0
    """What the losses do not see at each side of a patch."""
    back_projection: bool = False
    """Show the losses the outputs as they are after one step of back-projection."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs that some loss counts for."""
        terms = (
            self.pixel,
            self.distill,
            self.colour,
            self.dists,
            self.perceptual,
            self.adversarial,
        )
        wanted = {output for term in terms if term for output in term.weights.outputs}
        return tuple(output for output in OUTPUTS if output in wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """Adam, its schedule, and the average of weights that is kept."""

    learning_rate: float
    schedule: Literal["cosine", "multistep"] = "cosine"
    warmup: int = 0
    """Steps over which the rate rises to its full value."""
    final: float = 0.0
    """The share of the rate that the cosine ends at."""
    milestones: tuple[float, ...] = ()
    """Shares of the run after each of which the rate is halved."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 0.0
    """The largest norm of the generator's gradient; 0 does not clip."""
    ema: float = 0.999
    """What stays of the average at each step; 0 keeps the last weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """How the device is used; `compile` and `graph` are for CUDA only."""

    name: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """A CPU on which bfloat16 is not faster trains in float32 all the same."""
    compile: bool = True
    graph: bool = True
    """Capture the step in a CUDA graph (in a run of one process)."""
    channels_last: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Pictures that are never trained on, upscaled now and then."""

    every: int = 1000
    pictures: int = 12
    crop: int = 0
    """The side of the centre that is used, in high-resolution pixels; 0 is all of it."""
    samples: int = 4
    """How many are drawn into the strip."""
    jpeg_quality: int = 0
    """Compress the small pictures; 0 does not."""
    best: Literal["psnr", "gan", "fused", "last"] = "psnr"
    """The output whose PSNR-Y tells the best state, or always the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All of a run."""

    run: Run
    generator: Generator
    data: Data
    losses: Losses
    optimiser: Optimiser
    degradation: Degradation | None = None
    """Without one, bicubic."""
    teacher: Teacher | None = None
    """With one, batches are cut from its cache."""
    device: Device = field(default_factory=Device)
    validation: Validation = field(default_factory=Validation)

    @property
    def data_of_cache(self) -> Data:
        """How the pictures of the teacher's cache are cut from photographs."""
        return (
            replace(self.data, patch=self.teacher.side, batch=SHARD, patterns=0.0)
            if self.teacher
            else self.data
        )

    @property
    def network(self) -> GDSRConfig:
        """The size of the generator.

        Raises:
            ConfigInvalid: there is none or there are two.
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
