"""From settings to networks that are warm on one device."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from model.checkpoint import Checkpoint, CheckpointInvalid, load_checkpoint
from model.gdsr import PRESETS, SCALE
from model.inference.forward import NotFinite, measure, prepare
from model.process import cache_folder
from workers.contract.errors import ConfigurationInvalid
from workers.contract.queue.engines import ModelInfo
from workers.contract.settings import WorkerSettings
from workers.engine.calibration import best_batch, calibrated, device_memory, device_name
from workers.engine.checkpoints import checkpoint_files, default_model
from workers.engine.model_cache import Resident, Residents

#: Tile sides with context, where the settings do not say: small pictures, and the rest. Of 256
#: pixels, which is what many pictures are made of, the large one keeps just as many.
_TILES = (160, 288)
#: A GPU has the memory for larger ones, which spend less on context.
_CUDA_TILES = (*_TILES, 512)
#: A CPU gains nothing from a second tile, and small jobs would wait longer.
_CPU_BATCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """Networks ready on one device."""

    forwards: dict[str, Resident]
    residents: Residents
    models: tuple[ModelInfo, ...]
    default_model: str
    device_name: str
    batches: Mapping[int, int]
    """How many tiles are computed together at most, by the sides of tiles that it takes."""
    overlaps: bool = False
    """Whether a batch is begun before the last one is handed on: the device computes alone."""

    @property
    def tiles(self) -> tuple[int, ...]:
        """Sides of the tiles it takes; each picture is cut into those that suit it best."""
        return tuple(self.batches)

    @property
    def max_batch(self) -> int:
        """Of tiles of any side."""
        return max(self.batches.values())

    def release(self) -> None:
        """Give back device memory that is kept for speed alone."""
        for forward in self.forwards.values():
            forward.release()

    def consistency(self, model: str) -> bool:
        """What the card of a model says of it."""
        cards = (found.card for found in self.models if found.name == model)
        return bool(next(cards).get("consistency", False))

    def speeds(self, model: str) -> list[float]:
        """Pixels a second of a model, as measured, by output."""
        found = (info.pixels_per_second.values() for info in self.models if info.name == model)
        return list(next(found, ()))


class LoadedModel(NamedTuple):
    """One network ready on a device, and what is told of it."""

    forward: Resident
    info: ModelInfo


def load_engine(settings: WorkerSettings, device_wanted: str) -> LoadedEngine:
    """Load every checkpoint, warm it up and measure it; the default one stays in any case.

    Raises:
        ConfigurationInvalid: a checkpoint cannot be read or does not work, the device is not
            there, or the default model is none of those loaded.
    """
    device = _device(device_wanted)
    cuda = device.type == "cuda"
    tiles = _tiles(settings, device)
    batches = dict.fromkeys(tiles, _CPU_BATCH)
    residents = Residents(settings.max_models)
    files = checkpoint_files(settings.checkpoints)
    default = default_model(settings.default_model, [path.stem for path in files])
    found: dict[str, LoadedModel] = {}
    for path in sorted(files, key=lambda path: path.stem == default):  # the last one stays
        residents.make_room()
        try:
            checkpoint = load_checkpoint(path)
            model = load_model(
                checkpoint, path, settings=settings, device=device, residents=residents
            )
            for tile in tiles if cuda else ():
                measured = calibrated(
                    model.forward.ready(),
                    tile=tile,
                    sha256=checkpoint.sha256,
                    folder=settings.cache_dir or cache_folder(),
                )
                found_best = best_batch(measured, memory=device_memory(device))
                batches[tile] = max(batches[tile], found_best)
        except (CheckpointInvalid, NotFinite, OSError) as invalid:
            reason = invalid.strerror if isinstance(invalid, OSError) else invalid
            raise ConfigurationInvalid(f"checkpoint {path}: {reason}") from invalid
        residents.used(model.forward)
        found[path.stem] = model
    return LoadedEngine(
        forwards={path.stem: found[path.stem].forward for path in files},
        residents=residents,
        models=tuple(found[path.stem].info for path in files),
        default_model=default,
        device_name=device_name(device),
        batches=batches,
        overlaps=cuda,
    )


def load_model(
    checkpoint: Checkpoint,
    path: Path,
    *,
    settings: WorkerSettings,
    device: torch.device,
    residents: Residents,
) -> LoadedModel:
    """Make a checkpoint ready on a device, warm it up, try it and measure it.

    It was read from `path`, and will be again after it has made way for another.

    Raises:
        NotFinite: its output is not.
    """
    tile = min(_tiles(settings, device))  # for warming up and for the figures in `/models`
    forward = prepare(
        checkpoint.generator,
        device=device,
        precision=settings.precision,
        tile=tile,
        cache=settings.cache_dir,
    )
    info = ModelInfo(
        name=path.stem,
        sha256=checkpoint.sha256,
        preset=next(
            (preset for preset, config in PRESETS.items() if config == checkpoint.config), "custom"
        ),
        scale=SCALE,
        card=asdict(checkpoint.card),
        precision=forward.precision,
        compiled=forward.compiled,
        pixels_per_second=measure(forward, tile=tile),
    )
    resident = Resident(
        forward,
        path=path,
        sha256=info.sha256,
        tile=tile,
        among=residents,
        cache=settings.cache_dir,
    )
    return LoadedModel(resident, info)


def _tiles(settings: WorkerSettings, device: torch.device) -> tuple[int, ...]:
    if settings.tile:
        return (settings.tile,)
    return _CUDA_TILES if device.type == "cuda" else _TILES


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda":  # streams, graphs and kernels are those of the current one
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as failure:
        reason = str(failure).splitlines()[0]
        raise ConfigurationInvalid(
            f"GDSR_DEVICES: {name} cannot be used here: {reason}"
        ) from failure
    return device
