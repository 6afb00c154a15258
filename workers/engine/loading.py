"""Loads the configured checkpoints onto a device."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from model.checkpoint import CheckpointInvalid, load_checkpoint
from model.inference import openvino
from model.inference.forward import NotFinite
from model.process import cache_folder
from workers.contract.errors import ConfigurationInvalid
from workers.contract.queue.engines import ModelInfo
from workers.contract.settings import WorkerSettings
from workers.engine.calibration import best_batch, calibrated, device_name
from workers.engine.checkpoints import default_model, engine_files
from workers.engine.model_cache import PENDING, CachedModel, ModelCache

#: Default tile sides, context included: for small pictures, and for the rest. The large one keeps
#: 256 pixels, which is a common size.
_TILES = (160, 288)
#: GPUs have the memory for larger tiles, which spend less on context.
_CUDA_TILES = (*_TILES, 512)
#: A CPU gains nothing from a second tile, and small jobs would wait longer.
_CPU_BATCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """All models of one device."""

    forwards: dict[str, CachedModel]
    model_cache: ModelCache
    default_model: str
    device_name: str
    batches: Mapping[int, int]
    """Maximum batch by tile side."""
    overlaps: bool = False
    """True if the next batch starts before the last is delivered: the device is asynchronous."""

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """Information about each model, as far as it is known yet."""
        return tuple(model.info for model in self.forwards.values())

    @property
    def tiles(self) -> tuple[int, ...]:
        """Accepted tile sides; each picture uses the one that suits it best."""
        return tuple(self.batches)

    @property
    def max_batch(self) -> int:
        """Maximum batch of any tile side."""
        return max(self.batches.values())

    def release(self) -> None:
        """Release cached device memory."""
        for forward in self.forwards.values():
            forward.release()

    def consistency(self, model: str) -> bool:
        """Default of back-projection in the model's card."""
        return bool(self.forwards[model].info.card.get("consistency", False))


def load_engine(
    settings: WorkerSettings, device_wanted: str, *, default_only: bool = False
) -> LoadedEngine:
    """Load every checkpoint, warm it up and measure it; the default model stays on the device.

    With `default_only`, a CPU loads only the default model, with torch; `CachedModel.settle` loads
    the others later. A GPU loads all of them, as each influences the batch sizes.

    Raises:
        ConfigurationInvalid: a checkpoint cannot be read or does not work, the device is not
            available, or the default model is not among those loaded.
    """
    device = _device(device_wanted)
    if settings.cpu_backend == "openvino" and not openvino.is_installed():
        raise ConfigurationInvalid(
            "GDSR_CPU_BACKEND is openvino, which is not installed: pip install '.[openvino]' in "
            "the checkout"
        )
    cuda = device.type == "cuda"
    tiles = _tiles(settings, device)
    batches = dict.fromkeys(tiles, _CPU_BATCH)
    model_cache = ModelCache(settings.max_models)
    wanted = settings.default_model
    files = engine_files(settings.checkpoints, wanted=wanted, device=device_wanted)
    default = default_model(wanted, [path.stem for path in files], device=device_wanted)
    found: dict[str, CachedModel] = {}
    parameters: dict[str, int] = {}
    # the last one stays on the device
    for path in sorted(files, key=lambda path: path.stem == default):
        try:
            checkpoint = load_checkpoint(path)
            model = CachedModel(
                checkpoint,
                path,
                settings=settings,
                device=device,
                tile=min(tiles),
                model_cache=model_cache,
            )
            found[path.stem] = model
            parameters[path.stem] = sum(part.numel() for part in checkpoint.generator.parameters())
            if default_only and not cuda:
                if path.stem == default:
                    model.load(checkpoint.generator)
                    model_cache.used(model)
                continue
            model_cache.make_room()
            model.load(checkpoint.generator)
            model.settle()
            model_cache.used(model)
            for tile in tiles if cuda else ():
                measured = calibrated(
                    model.ready(),
                    tile=tile,
                    sha256=checkpoint.sha256,
                    folder=settings.cache_dir or cache_folder(),
                )
                memory = torch.cuda.get_device_properties(device).total_memory
                found_best = best_batch(measured, memory=memory)
                batches[tile] = max(batches[tile], found_best)
        except (CheckpointInvalid, NotFinite, OSError) as invalid:
            reason = invalid.strerror if isinstance(invalid, OSError) else invalid
            raise ConfigurationInvalid(f"checkpoint {path}: {reason}") from invalid
    for name, model in found.items():
        if model.info.precision == PENDING:
            model.estimate(found[default], work=parameters[name] / parameters[default])
    return LoadedEngine(
        forwards={path.stem: found[path.stem] for path in files},
        model_cache=model_cache,
        default_model=default,
        device_name=device_name(device),
        batches=batches,
        overlaps=cuda,
    )


def _tiles(settings: WorkerSettings, device: torch.device) -> tuple[int, ...]:
    if settings.tile:
        return (settings.tile,)
    return _CUDA_TILES if device.type == "cuda" else _TILES


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda":  # streams, graphs and kernels belong to the current device
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as failure:
        reason = str(failure).splitlines()[0]
        raise ConfigurationInvalid(f"GDSR_DEVICES: {name} cannot be used: {reason}") from failure
    return device
