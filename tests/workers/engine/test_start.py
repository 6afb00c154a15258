"""A CPU engine serves as soon as its default model is ready, and measures the others later."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import TILE, serving, tiles
from factories import Pixels
from networks import not_finite

from model.inference import openvino
from workers.contract.errors import ModelNotLoaded
from workers.contract.queue.engines import ModelInfo
from workers.contract.settings import WorkerSettings
from workers.engine.client import EngineClient
from workers.engine.loading import load_engine
from workers.engine.local import InProcessEngine
from workers.engine.models import Models
from workers.engine.server import EngineServer
from workers.tiles.trade_off import output_weights

WEIGHTS = [output_weights(0.5)]


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(
        checkpoints=(folder,), default_model="one", precision="float32", tile=TILE,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip


@pytest.fixture
def server(settings: WorkerSettings, place: Path) -> Iterator[EngineServer]:
    with serving(load_engine(settings, "cpu", default_only=True), place) as server:
        yield server


def through(place: Path, model: str) -> tuple[list[Pixels], str]:
    """Return the results of some tiles and the precision that a job then reports."""
    with EngineClient([place], model=model, patience=timedelta(seconds=60)) as client:
        made = [made.copy() for made in client.run(tiles(), model=model, weights=WEIGHTS)]
        return made, client.made_by(model).precision


def known(server: EngineServer) -> dict[str, ModelInfo]:
    return {info.name: info for info in server.loaded.models}


def on_device(server: EngineServer) -> list[str]:
    return [name for name, model in server.loaded.forwards.items() if model.forward is not None]


def models_of(server: EngineServer, settings: WorkerSettings) -> Models:
    return Models(server, settings, torch.device("cpu"), followed=0)


def test_it_starts_with_its_default_model_and_names_the_others(server: EngineServer) -> None:
    assert on_device(server) == ["one"]
    assert {name: info.precision for name, info in known(server).items()} == {
        "one": "float32", "three": "pending", "two": "pending",
    }  # fmt: skip
    # equal parameter counts give equal estimates
    assert known(server)["two"].pixels_per_second == known(server)["one"].pixels_per_second


def test_the_first_job_of_a_model_loads_and_measures_it(
    server: EngineServer, settings: WorkerSettings, place: Path
) -> None:
    made, precision = through(place, "two")

    whole = InProcessEngine(load_engine(settings, "cpu"))
    expected = list(whole.run(tiles(), model="two", weights=WEIGHTS))
    assert np.abs(np.array(made, np.int16) - np.array(expected)).max() <= 1
    assert precision == known(server)["two"].precision == "float32"
    assert known(server)["two"].pixels_per_second != known(server)["one"].pixels_per_second
    assert server.loaded.model_cache.loads == 0  # none was evicted


def test_an_idle_engine_measures_one_model_after_the_other(
    server: EngineServer, settings: WorkerSettings
) -> None:
    models = models_of(server, settings)
    turns = 0
    while models.settle_next():
        turns += 1

    assert turns == 3
    assert on_device(server) == ["one", "three", "two"]
    assert all(info.precision == "float32" for info in known(server).values())


def test_a_model_without_room_waits_for_its_first_job(
    settings: WorkerSettings, place: Path
) -> None:
    one_model = settings.model_copy(update={"max_models": 1})
    with serving(load_engine(one_model, "cpu", default_only=True), place) as server:
        models = models_of(server, one_model)
        while models.settle_next():
            pass
        assert on_device(server) == ["one"]

        through(place, "three")

        assert on_device(server) == ["three"]
        assert known(server)["two"].precision == "pending"


def test_a_model_that_fails_its_test_fails_its_own_jobs_only(
    settings: WorkerSettings, folder: Path, place: Path
) -> None:
    not_finite(folder / "two.safetensors")
    with serving(load_engine(settings, "cpu", default_only=True), place) as server:
        models = models_of(server, settings)
        while models.settle_next():
            pass

        with pytest.raises(ModelNotLoaded, match=r"the model two .*not finite.*reload"):
            through(place, "two")
        assert len(through(place, "three")[0]) == 3


@pytest.mark.skipif(not openvino.is_installed(), reason="needs the extra openvino")
def test_the_trial_of_both_libraries_comes_after_the_start(
    settings: WorkerSettings, place: Path
) -> None:
    trying = settings.model_copy(update={"cpu_backend": "auto"})
    with serving(load_engine(trying, "cpu", default_only=True), place) as server:
        first, _ = through(place, "one")
        before = known(server)["one"]
        models_of(server, trying).settle_next()
        after, (second, _) = known(server)["one"], through(place, "one")

    assert (before.backend, before.seconds_by_backend) == ("torch", {})
    assert set(after.seconds_by_backend) == {"torch", "openvino"}
    assert np.abs(np.array(first, np.int16) - np.array(second)).max() <= 1
