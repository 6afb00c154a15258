"""An engine reloads changed checkpoint files while it serves."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import redis
import torch
from engines import TILE, serving, tiles
from factories import Pixels, engine_info
from networks import half, not_finite, tiny_checkpoint
from processes import wait_for

from model.checkpoint import read_header
from workers.contract.errors import CheckpointReplaced, ModelUnknown
from workers.contract.queue.reload import reports, request_reload
from workers.contract.settings import WorkerSettings
from workers.engine.client import EngineClient
from workers.engine.loading import load_engine
from workers.engine.local import InProcessEngine
from workers.engine.models import Models, follow
from workers.engine.server import EngineServer
from workers.tiles.trade_off import output_weights

WEIGHTS = [output_weights(0.5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints `one` and `two`."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for seed, name in enumerate(("one", "two")):
        tiny_checkpoint(folder / f"{name}.safetensors", seed=seed)
    return folder


@pytest.fixture
def settings(folder: Path) -> WorkerSettings:
    return WorkerSettings(checkpoints=(folder,), precision="float32", tile=TILE)


@pytest.fixture
def models(server: EngineServer, settings: WorkerSettings) -> Models:
    return Models(server, settings, torch.device("cpu"), followed=0)


def connect(place: Path, model: str) -> EngineClient:
    return EngineClient([place], model=model, patience=timedelta(seconds=0.5))


def through(place: Path, model: str) -> tuple[str, list[Pixels]]:
    """Return the checkpoint's hash, and its results for some tiles."""
    with connect(place, model) as client:
        made = [result.copy() for result in client.run(tiles(), model=model, weights=WEIGHTS)]
        return client.made_by(model).checkpoint, made


def expected(path: Path, *, count: int = 3) -> list[Pixels]:
    """Return the checkpoint's results for the same tiles in a separate engine."""
    loaded = load_engine(WorkerSettings(checkpoints=(path,), precision="float32", tile=TILE), "cpu")
    run = InProcessEngine(loaded).run(tiles(count), model=path.stem, weights=WEIGHTS)
    return [result.copy() for result in run]


def same(found: list[Pixels], wanted: list[Pixels]) -> bool:
    return bool(np.abs(np.array(found, np.int16) - np.array(wanted)).max() <= 1)


def changes(models: Models) -> dict[str, str]:
    report = models.reload()
    assert report.error is None
    return {model.name: model.change for model in report.models}


def test_a_new_file_becomes_a_model(models: Models, folder: Path, place: Path) -> None:
    path = tiny_checkpoint(folder / "three.safetensors", seed=3)

    assert changes(models) == {"one": "unchanged", "two": "unchanged", "three": "loaded"}

    sha256, made = through(place, "three")
    assert sha256 == read_header(path).sha256
    assert same(made, expected(path))
    assert changes(models)["three"] == "unchanged"


def test_a_changed_file_is_another_checkpoint(models: Models, folder: Path, place: Path) -> None:
    before, old = through(place, "one")
    path = tiny_checkpoint(folder / "one.safetensors", seed=7)

    assert changes(models) == {"one": "replaced", "two": "unchanged"}

    after, new = through(place, "one")
    assert after == read_header(path).sha256 != before
    assert same(new, expected(path))
    assert not same(new, old)


def nonsense(path: Path) -> None:
    path.write_bytes(b"no checkpoint")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(nonsense, "safetensors"), (half, "safetensors"), (not_finite, "finite")],
)
@pytest.mark.slow
def test_a_file_that_fails_leaves_the_model_that_was_there(
    models: Models, folder: Path, place: Path, spoil: object, reason: str
) -> None:
    before = through(place, "one")
    spoil(folder / "one.safetensors")  # type: ignore[operator]
    shutil.copy(folder / "one.safetensors", folder / "four.safetensors")

    report = {model.name: model for model in models.reload().models}

    assert report["one"].change == report["four"].change == "kept"
    assert reason in str(report["one"].reason)
    assert report["one"].sha256 == before[0]
    assert report["four"].sha256 is None
    after = through(place, "one")
    assert after[0] == before[0]
    assert same(after[1], before[1])
    with pytest.raises(ModelUnknown, match="there is no model 'four'; available: one, two"):
        connect(place, "four")


def test_a_model_whose_file_is_gone_is_dropped(
    models: Models, server: EngineServer, folder: Path, place: Path
) -> None:
    (folder / "one.safetensors").unlink()

    assert changes(models) == {"two": "unchanged", "one": "dropped"}
    assert server.loaded.default_model == "two"
    with pytest.raises(ModelUnknown):
        connect(place, "one")


def test_the_default_and_the_last_model_are_never_dropped(
    server: EngineServer, settings: WorkerSettings, folder: Path
) -> None:
    wanted = settings.model_copy(update={"default_model": "one"})
    (folder / "one.safetensors").unlink()
    report = Models(server, wanted, torch.device("cpu"), followed=0).reload()
    assert [model.change for model in report.models] == ["unchanged", "kept"]
    assert "GDSR_DEFAULT_MODEL" in str(report.models[1].reason)

    (folder / "two.safetensors").unlink()
    report = Models(server, settings, torch.device("cpu"), followed=0).reload()
    assert "no checkpoint" in str(report.error)
    assert set(server.loaded.forwards) == {"one", "two"}


@pytest.mark.slow
def test_a_picture_that_has_started_is_finished_as_it_began(
    models: Models, folder: Path, place: Path, tmp_path: Path
) -> None:
    original = Path(shutil.copy(folder / "one.safetensors", tmp_path / "one.safetensors"))
    with connect(place, "one") as client:
        running = client.run(iter(tiles(30)), model="one", weights=WEIGHTS)
        made = [next(running).copy()]
        tiny_checkpoint(folder / "one.safetensors", seed=7)
        assert changes(models)["one"] == "replaced"
        made += [result.copy() for result in running]

    assert len(made) == 30
    assert same(made, expected(original, count=30))


@pytest.mark.slow
def test_tiles_of_the_old_and_of_the_new_share_no_batch(
    settings: WorkerSettings, folder: Path, place: Path
) -> None:
    loaded = load_engine(settings, "cpu")
    loaded = replace(loaded, batches=dict.fromkeys(loaded.tiles, 4))
    with serving(loaded, place) as server:
        with connect(place, "one") as early:
            first = early.run(iter(tiles(40)), model="one", weights=WEIGHTS)
            old = [next(first).copy()]
            path = tiny_checkpoint(folder / "one.safetensors", seed=7)
            Models(server, settings, torch.device("cpu"), followed=0).reload()
            with connect(place, "one") as later:
                new = [r.copy() for r in later.run(tiles(), model="one", weights=WEIGHTS)]
            old += [result.copy() for result in first]

        assert same(new, expected(path))
        assert len(old) == 40
        assert not same(old[:3], new)


def test_a_second_pass_over_a_picture_is_not_made_with_another_checkpoint(
    models: Models, folder: Path, place: Path
) -> None:
    with connect(place, "one") as client:
        assert len(list(client.run(tiles(), model="one", weights=WEIGHTS))) == 3
        tiny_checkpoint(folder / "one.safetensors", seed=7)
        assert changes(models)["one"] == "replaced"
        with pytest.raises(CheckpointReplaced):
            list(client.run(tiles(), model="one", weights=WEIGHTS))


def test_two_files_of_one_name_change_nothing(
    server: EngineServer, settings: WorkerSettings, folder: Path, tmp_path: Path
) -> None:
    other = tiny_checkpoint(tmp_path / "one.safetensors", seed=9)
    both = settings.model_copy(update={"checkpoints": (folder, other)})

    report = Models(server, both, torch.device("cpu"), followed=0).reload()

    assert "two checkpoints are called one" in str(report.error)
    assert report.models == ()


@pytest.mark.slow
def test_an_unexpected_error_is_reported_and_the_next_request_is_handled(
    server: EngineServer,
    settings: WorkerSettings,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    too_long = settings.model_copy(update={"checkpoints": (Path("x" * 300),)})
    models = Models(server, too_long, torch.device("cpu"), followed=0)
    stopped = threading.Event()

    def error() -> str | None:
        number = request_reload(client)
        return wait_for(lambda: reports(client, number), what="the report")["one"].error

    client.set("gdsr:reload", "no number")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow, client, models, engine_info, stopped)
        try:
            wait_for(lambda: following.done() or "no number" in caplog.text)
            client.delete("gdsr:reload")
            found = [error(), error()]
        finally:
            stopped.set()
        following.result()

    assert found == ["aborted by OSError: File name too long"] * 2


def test_a_new_model_is_tested_between_batches_that_overlap(
    settings: WorkerSettings, folder: Path, place: Path
) -> None:
    loaded = load_engine(settings, "cpu")
    loaded = replace(loaded, overlaps=True, batches=dict.fromkeys(loaded.tiles, 2))
    with serving(loaded, place) as server, connect(place, "two") as client:
        running = client.run(iter(tiles(40)), model="two", weights=WEIGHTS)
        next(running)
        tiny_checkpoint(folder / "three.safetensors", seed=3)
        report = Models(server, settings, torch.device("cpu"), followed=0).reload()

        assert report.models[1].change == "loaded"
        assert len(list(running)) == 39
