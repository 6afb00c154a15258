"""The best batch size of a device is measured once."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from networks import TINY

from model.gdsr import GDSR
from model.inference.forward import Forward
from workers.engine.calibration import BATCHES, Measured, best_batch, calibrate, calibrated

TILE = 32


@pytest.fixture
def forward() -> Forward:
    torch.manual_seed(0)
    return Forward(GDSR(TINY), device=torch.device("cpu"), precision="float32")


def measured(*milliseconds: float, gigabytes: float = 0) -> list[Measured]:
    return [
        Measured(tile=160, batch=batch, seconds=ms / 1000, peak_bytes=int(batch * gigabytes * 1e9))
        for batch, ms in zip(BATCHES, milliseconds, strict=False)
    ]


@pytest.mark.parametrize(
    ("found", "batch"),
    [
        ([], 1),
        (measured(10), 1),
        (measured(10, 9.9), 1),  # too little gain to let small jobs wait
        (measured(10, 6, 5.9), 2),
        (measured(10, 6, 4, 3), 8),
        (measured(10, 12, 14), 1),
    ],
)
def test_a_larger_batch_has_to_be_worth_it(found: list[Measured], batch: int) -> None:
    assert best_batch(found) == batch


def test_half_of_the_memory_is_left() -> None:
    found = measured(10, 6, 4, 3, gigabytes=2)

    assert best_batch(found, memory=80e9) == 8
    assert best_batch(found, memory=20e9) == 4
    assert best_batch(found, memory=1e9) == 1


def test_batches_grow_until_they_gain_nothing(forward: Forward) -> None:
    found, fitted = calibrate(forward, tile=TILE)

    assert fitted
    assert [one.batch for one in found] == list(BATCHES[: len(found)])
    assert all(one.tile == TILE and 0 < one.seconds < math.inf for one in found)
    gains = [after.seconds / before.seconds for before, after in itertools.pairwise(found)]
    assert all(gain <= 0.95 for gain in gains[:-1])


def test_a_batch_that_does_not_fit_into_memory_is_not_chosen(
    forward: Forward, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Forward, "__call__", full)

    found, fitted = calibrate(forward, tile=TILE)

    assert best_batch(found) == 1
    assert not fitted


def test_it_is_measured_once_for_a_checkpoint_a_precision_and_a_size(
    forward: Forward, tmp_path: Path
) -> None:
    first = calibrated(forward, tile=TILE, sha256="a" * 64, folder=tmp_path)
    again = calibrated(forward, tile=TILE, sha256="a" * 64, folder=tmp_path)
    other = calibrated(forward, tile=TILE, sha256="b" * 64, folder=tmp_path)

    assert again == first != other
    assert len(list(tmp_path.iterdir())) == 2


def test_a_lack_of_memory_is_not_remembered(
    forward: Forward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have had the memory."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Forward, "__call__", full)
        assert calibrated(forward, tile=TILE, sha256="a" * 64, folder=tmp_path) == []

    assert calibrated(forward, tile=TILE, sha256="a" * 64, folder=tmp_path)


def test_a_damaged_file_is_measured_anew(forward: Forward, tmp_path: Path) -> None:
    first = calibrated(forward, tile=TILE, sha256="a" * 64, folder=tmp_path)
    for path in tmp_path.iterdir():
        path.write_text('[{"tile": 1}]')

    again = calibrated(forward, tile=TILE, sha256="a" * 64, folder=tmp_path)

    assert [one.tile for one in again] == [TILE] * len(again)
    assert first
