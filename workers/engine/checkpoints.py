"""Finds the checkpoint files of an engine; their names are the names of the models."""

from collections.abc import Sequence
from pathlib import Path

import model
from workers.contract.errors import ConfigurationInvalid

_DEFAULT = "lite-real"


def checkpoint_files(places: Sequence[Path]) -> list[Path]:
    """The checkpoint files in these files and folders, or those shipped with GDSR.

    Raises:
        ConfigurationInvalid: there are none, or two have the same name.
    """
    places = places or [Path(model.__file__).parent / "checkpoints"]
    files: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.glob("*.safetensors")) if place.is_dir() else [place]:
            if path.stem in files:
                raise ConfigurationInvalid(f"two checkpoints are called {path.stem}: {path}")
            files[path.stem] = path
    if not files:
        raise ConfigurationInvalid(f"no checkpoint in {', '.join(map(str, places))}")
    return list(files.values())


def default_model(wanted: str | None, names: Sequence[str]) -> str:
    """The default model for requests that name none.

    Raises:
        ConfigurationInvalid: the configured one is not among the names.
    """
    if wanted is None:
        return _DEFAULT if _DEFAULT in names else names[0]
    if wanted not in names:
        raise ConfigurationInvalid(
            f"GDSR_DEFAULT_MODEL is {wanted}; the checkpoints are {', '.join(names)}"
        )
    return wanted
