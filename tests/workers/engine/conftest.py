"""An engine of three tiny models on a socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import serving
from networks import tiny_checkpoint

from workers.contract.settings import WorkerSettings
from workers.engine.loading import load_engine
from workers.engine.server import EngineServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints `one` (the default), `three` and `two`."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for seed, name in enumerate(("one", "two", "three")):
        tiny_checkpoint(folder / f"{name}.safetensors", seed=seed)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


@pytest.fixture
def server(settings: WorkerSettings, place: Path) -> Iterator[EngineServer]:
    with serving(load_engine(settings, "cpu"), place) as server:
        yield server
