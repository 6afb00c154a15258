"""An engine with a bounded model cache evicts networks and loads others on demand."""

import gc
import threading
import weakref
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import TILE, serving, tiles
from factories import Pixels
from networks import half, tiny_checkpoint

from workers.contract.errors import CheckpointReplaced, ModelNotLoaded
from workers.contract.settings import WorkerSettings
from workers.engine.client import EngineClient
from workers.engine.loading import LoadedEngine, load_engine
from workers.engine.local import InProcessEngine
from workers.engine.models import Models
from workers.engine.server import EngineServer
from workers.tiles.trade_off import output_weights

WEIGHTS = [output_weights(0.5)]
NAMES = ("one", "three", "two")


@pytest.fixture
def settings(folder: Path) -> WorkerSettings:
    return WorkerSettings(
        checkpoints=(folder,), default_model="one", precision="float32", tile=TILE, max_models=1
    )


@pytest.fixture
def unbound(settings: WorkerSettings) -> dict[str, list[Pixels]]:
    """Each model's result if all models stay resident."""
    engine = InProcessEngine(load_engine(settings.model_copy(update={"max_models": None}), "cpu"))
    return {
        name: [made.copy() for made in engine.run(tiles(), model=name, weights=WEIGHTS)]
        for name in NAMES
    }


def connect(place: Path, model: str) -> EngineClient:
    return EngineClient([place], model=model, patience=timedelta(seconds=60))


def through(place: Path, model: str) -> list[Pixels]:
    with connect(place, model) as client:
        return [made.copy() for made in client.run(tiles(), model=model, weights=WEIGHTS)]


def resident(loaded: LoadedEngine) -> list[str]:
    return [name for name, network in loaded.forwards.items() if network.forward is not None]


def test_all_models_are_listed_from_the_start_and_the_default_one_is_loaded(
    settings: WorkerSettings,
) -> None:
    for bound, there in ((1, {"one"}), (2, {"one", "two"}), (3, set(NAMES)), (None, set(NAMES))):
        loaded = load_engine(settings.model_copy(update={"max_models": bound}), "cpu")

        assert set(resident(loaded)) == there
        assert [model.name for model in loaded.models] == list(NAMES)
        assert all(model.pixels_per_second["fused"] > 0 for model in loaded.models)


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.slow
def test_pictures_of_alternating_models_are_those_of_an_engine_that_keeps_all(
    settings: WorkerSettings,
    place: Path,
    unbound: dict[str, list[Pixels]],
    overlaps: bool,  # noqa: FBT001
) -> None:
    loaded = replace(load_engine(settings, "cpu"), overlaps=overlaps)
    with serving(loaded, place):
        for name in ("two", "one", "three", "one", "one", "two"):
            assert np.array_equal(through(place, name), unbound[name])
            assert resident(loaded) == [name]

    assert loaded.model_cache.loads == 5


def test_jobs_for_different_models_at_once_all_come_out_right(
    server: EngineServer, place: Path, unbound: dict[str, list[Pixels]]
) -> None:
    made: dict[str, list[Pixels]] = {}
    threads = [
        threading.Thread(target=lambda name=name: made.update({name: through(place, name)}))
        for name in NAMES
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert all(np.array_equal(made[name], unbound[name]) for name in NAMES)
    assert len(resident(server.loaded)) == 1


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.slow
def test_a_network_that_made_way_takes_no_memory(
    settings: WorkerSettings,
    place: Path,
    overlaps: bool,  # noqa: FBT001
) -> None:
    loaded = replace(load_engine(settings, "cpu"), overlaps=overlaps)
    gone = []
    with serving(loaded, place):
        for name in ("one", "two", "three"):
            through(place, name)
            network = loaded.forwards[name].forward
            assert network is not None
            gone.append(weakref.ref(network))
            del network
        gc.collect()

        assert [one() is None for one in gone] == [True, True, False]


@pytest.mark.slow
def test_the_one_that_was_used_last_stays(settings: WorkerSettings, place: Path) -> None:
    loaded = load_engine(settings.model_copy(update={"max_models": 2}), "cpu")
    with serving(loaded, place):
        through(place, "one")
        through(place, "three")  # evicts "two", which is older by now

        assert set(resident(loaded)) == {"one", "three"}


def changed(path: Path) -> None:
    tiny_checkpoint(path, seed=9)


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(changed, "has changed"), (half, "not a whole"), (removed, "No such file")],
)
@pytest.mark.slow
def test_a_file_that_is_not_what_it_was_fails_its_own_pictures_only(
    server: EngineServer,
    place: Path,
    folder: Path,
    unbound: dict[str, list[Pixels]],
    spoil: object,
    reason: str,
) -> None:
    spoil(folder / "two.safetensors")  # type: ignore[operator]

    with pytest.raises(ModelNotLoaded, match=f"the model two .*{reason}.*reload"):
        through(place, "two")

    assert resident(server.loaded) == ["one"]  # nothing was evicted in vain
    for name in ("one", "three"):
        assert np.array_equal(through(place, name), unbound[name])


@pytest.mark.slow
def test_the_engine_in_this_process_says_the_same(settings: WorkerSettings, folder: Path) -> None:
    engine = InProcessEngine(load_engine(settings, "cpu"))
    changed(folder / "two.safetensors")

    with pytest.raises(ModelNotLoaded, match="has changed"):
        list(engine.run(tiles(), model="two", weights=WEIGHTS))
    assert len(list(engine.run(tiles(), model="three", weights=WEIGHTS))) == 3


@pytest.mark.slow
def test_after_a_reload_the_changed_file_serves_and_the_bound_holds(
    server: EngineServer, settings: WorkerSettings, place: Path, folder: Path
) -> None:
    changed(folder / "two.safetensors")
    report = Models(server, settings, torch.device("cpu"), followed=0).reload()

    assert {model.name: model.change for model in report.models}["two"] == "replaced"
    assert resident(server.loaded) == ["two"]
    first = through(place, "two")
    through(place, "one")
    assert np.array_equal(through(place, "two"), first)


@pytest.mark.slow
def test_a_file_that_a_reload_does_not_take_leaves_the_network_that_is_there(
    server: EngineServer,
    settings: WorkerSettings,
    place: Path,
    folder: Path,
    unbound: dict[str, list[Pixels]],
) -> None:
    half(folder / "one.safetensors")
    report = Models(server, settings, torch.device("cpu"), followed=0).reload()

    assert report.models[0].change == "kept"
    assert np.array_equal(through(place, "one"), unbound["one"])


@pytest.mark.slow
def test_a_picture_whose_network_was_replaced_is_finished_or_begins_anew(
    server: EngineServer, settings: WorkerSettings, place: Path, folder: Path
) -> None:
    with connect(place, "one") as here, connect(place, "two") as away:
        running = here.run(iter(tiles(30)), model="one", weights=WEIGHTS)
        next(running)
        for name in ("one", "two"):
            changed(folder / f"{name}.safetensors")
        Models(server, settings, torch.device("cpu"), followed=0).reload()

        assert len(list(running)) == 29  # the job keeps its network
        with pytest.raises(CheckpointReplaced):
            list(away.run(tiles(), model="two", weights=WEIGHTS))
