"""Finds the checkpoint files of an engine; their names are the names of the models."""

from collections.abc import Sequence
from pathlib import Path

import model
from workers.contract.errors import ConfigurationInvalid

#: Shipped default by kind of device.
_DEFAULTS = {"cuda": "paper-real", "cpu": "lite-real"}
#: Shipped models that a CPU loads only if GDSR_DEFAULT_MODEL names them: to measure them would take
#: longer than the rest of its start.
_FOR_GPUS = frozenset({"paper-real"})


def checkpoint_files(places: Sequence[Path]) -> list[Path]:
    """The checkpoint files in these files and folders, or those shipped with GDSR.

    Raises:
        ConfigurationInvalid: there are none, two have the same name, or a name is not text.
    """
    places = places or [Path(model.__file__).parent / "checkpoints"]
    files: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.glob("*.safetensors")) if place.is_dir() else [place]:
            if path.stem.encode(errors="replace").decode() != path.stem:
                raise ConfigurationInvalid(f"the name of the checkpoint {str(path)!a} is not text")
            if path.stem in files:
                raise ConfigurationInvalid(f"two checkpoints are called {path.stem}: {path}")
            files[path.stem] = path
    if not files:
        raise ConfigurationInvalid(f"no checkpoint in {', '.join(map(str, places))}")
    return list(files.values())


def engine_files(places: Sequence[Path], *, wanted: str | None, device: str) -> list[Path]:
    """The checkpoint files for an engine on a device, such as `cpu` or `cuda:0`.

    `wanted` is the configured default model.

    Raises:
        ConfigurationInvalid: as for `checkpoint_files`.
    """
    files = checkpoint_files(places)
    if places or _kind(device) == "cuda":
        return files
    return [path for path in files if path.stem not in _FOR_GPUS - {wanted}]


def default_model(wanted: str | None, names: Sequence[str], *, device: str) -> str:
    """The default model for requests that name none, on a device such as `cpu` or `cuda:0`.

    Raises:
        ConfigurationInvalid: the configured one is not among the names.
    """
    if wanted is None:
        usual = (_DEFAULTS[_kind(device)], _DEFAULTS["cpu"])
        return next((name for name in usual if name in names), names[0])
    if wanted not in names:
        raise ConfigurationInvalid(
            f"GDSR_DEFAULT_MODEL is {wanted}; the checkpoints are {', '.join(names)}"
        )
    return wanted


def _kind(device: str) -> str:
    return "cuda" if device.startswith("cuda") else "cpu"
