"""From settings to networks that are warm on one device."""

from dataclasses import asdict, dataclass

import torch

from model.checkpoint import CheckpointInvalid, load_checkpoint
from model.forward import Forward, NotFinite, measure, prepare
from model.gdsr import PRESETS, SCALE
from workers.contract.engines import ModelInfo
from workers.contract.errors import ConfigurationInvalid
from workers.contract.settings import WorkerSettings
from workers.engine.checkpoints import checkpoint_files, default_model

#: Tile side with context, and tiles in a batch, where the settings do not say.
_CPU_TILE, _CPU_BATCH = 160, 1
_CUDA_TILE, _CUDA_BATCH = 256, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """Networks ready on one device."""

    forwards: dict[str, Forward]
    models: tuple[ModelInfo, ...]
    default_model: str
    device_name: str
    tile: int
    max_batch: int


def load_engine(settings: WorkerSettings, device_name: str) -> LoadedEngine:
    """Load every checkpoint, warm it up and measure it.

    Raises:
        ConfigurationInvalid: a checkpoint cannot be read or does not work, the device is not
            there, or the default model is none of those loaded.
    """
    device = _device(device_name)
    cuda = device.type == "cuda"
    tile = settings.tile or (_CUDA_TILE if cuda else _CPU_TILE)
    forwards: dict[str, Forward] = {}
    models: list[ModelInfo] = []
    for path in checkpoint_files(settings.checkpoints):
        try:
            checkpoint = load_checkpoint(path)
            forward = prepare(
                checkpoint.generator, device=device, precision=settings.precision, tile=tile
            )
        except (CheckpointInvalid, NotFinite, OSError) as invalid:
            reason = invalid.strerror if isinstance(invalid, OSError) else invalid
            raise ConfigurationInvalid(f"checkpoint {path}: {reason}") from invalid
        forwards[path.stem] = forward
        models.append(
            ModelInfo(
                name=path.stem,
                sha256=checkpoint.sha256,
                preset=next(
                    (name for name, config in PRESETS.items() if config == checkpoint.config),
                    "custom",
                ),
                scale=SCALE,
                card=asdict(checkpoint.card),
                precision=forward.precision,
                pixels_per_second=measure(forward, tile=tile),
            )
        )
    return LoadedEngine(
        forwards=forwards,
        models=tuple(models),
        default_model=default_model(settings.default_model, list(forwards), cuda=cuda),
        device_name=torch.cuda.get_device_name(device) if cuda else "CPU",
        tile=tile,
        max_batch=_CUDA_BATCH if cuda else _CPU_BATCH,
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as failure:
        reason = str(failure).splitlines()[0]
        raise ConfigurationInvalid(
            f"GDSR_DEVICES: {name} cannot be used here: {reason}"
        ) from failure
    return device
