"""The saved state of a run, from which it resumes with the same numbers.

Random state is a function of the seed and the step, so only the step is saved. Writes are atomic: a
full disk or a killed process leaves the last good state.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from model.files import write_atomically
from model.reference import UNREADABLE_PICKLE
from model.trainer.errors import TrainingError, writing
from model.trainer.step.networks import Networks, Optimisers

_FORMAT = 1


@dataclass(slots=True, kw_only=True)
class TrainState:
    """Progress of a run."""

    step: int = 0
    """Steps taken."""
    elapsed: float = 0.0
    """Seconds, over all sessions."""
    validation: float = 0.0
    """Seconds of the last validation."""
    best: float = float("-inf")
    photographs: str = ""
    """Digest of the list of training photographs."""
    origin: str = ""
    """Origin of the initial weights, in words."""


def save_state(
    path: Path, train_state: TrainState, networks: Networks, optimisers: Optimisers
) -> None:
    """Write the state.

    Raises:
        TrainingError: the file cannot be written; the previous state stays.
    """
    state = {
        "format": _FORMAT,
        **asdict(train_state),
        **{name: part.state_dict() for name, part in _parts(networks, optimisers).items()},
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with writing(path):
        write_atomically(path, buffer.getbuffer())


def load_state(
    path: Path, networks: Networks, optimisers: Optimisers, device: torch.device
) -> TrainState:
    """Load the state into the networks and optimisers.

    Raises:
        TrainingError: there is no state, or it is of another run.
    """
    try:
        state: Mapping[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if state["format"] != _FORMAT:
            raise TrainingError(
                f"{path} has the format {state['format']}; this release expects {_FORMAT}"
            )
        for name, part in _parts(networks, optimisers).items():
            if isinstance(part, torch.optim.Adam):
                _load_optimiser(part, state[name])
            else:
                part.load_state_dict(state[name])
        return TrainState(**{field.name: state[field.name] for field in fields(TrainState)})
    except FileNotFoundError:
        raise TrainingError(f"{path.parent} holds no run: there is no {path.name}") from None
    except (OSError, *UNREADABLE_PICKLE) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise TrainingError(f"{path} cannot be resumed from: {shorten(reason, 200)}") from None


def _load_optimiser(optimiser: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Load the moments; execution options are those of the current device."""
    kept = [
        {key: group[key] for key in ("lr", "fused", "capturable")}
        for group in optimiser.param_groups
    ]
    optimiser.load_state_dict(state)
    for group, options in zip(optimiser.param_groups, kept, strict=True):
        group.update(options)


def _parts(networks: Networks, optimisers: Optimisers) -> dict[str, Any]:
    parts = {
        "generator": networks.generator,
        "average": networks.average,
        "discriminator": networks.discriminator,
        "generator_optimiser": optimisers.generator,
        "discriminator_optimiser": optimisers.discriminator,
    }
    return {name: part for name, part in parts.items() if part is not None}
