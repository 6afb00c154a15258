"""After an injected out-of-memory error the picture is right and the smaller size remembered."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from workers.contract.errors import EngineOutOfMemory
from workers.engine.out_of_memory import CLIMB_AFTER, SMALLEST_TILE, OutOfMemoryFallback

Pixels = NDArray[np.uint8]


def limited(  # type: ignore[no-untyped-def]  # noqa: ANN201
    limit: int, failure: Exception | None = None
):
    """Nearest-neighbour upscaling on a device whose memory fits only so many input pixels."""
    failure = failure or torch.OutOfMemoryError("CUDA out of memory")

    def compute(tiles: Pixels, weights: NDArray[np.float32]) -> Pixels:
        assert len(tiles) == len(weights)
        pixels = tiles.shape[0] * tiles.shape[1] * tiles.shape[2]
        if pixels > limit:
            raise failure
        compute.seen.append(tiles.shape)  # type: ignore[attr-defined]
        rows = weights.shape[1]
        return tiles.repeat(4, axis=1).repeat(4, axis=2)[:, None].repeat(rows, axis=1)

    compute.seen = []  # type: ignore[attr-defined]
    return compute


def a_batch(count: int, side: int, results: int = 1) -> tuple[Pixels, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    tiles = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return tiles, np.tile(np.eye(4, dtype=np.float32)[:results], (count, 1, 1))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    ("limit", "batch", "tile"),
    [
        (8 * 128 * 128, 8, 128),
        (3 * 128 * 128, 2, 128),
        (128 * 128, 1, 128),
        (128 * 128 - 1, 1, 64),
        (64 * 64, 1, 64),
    ],
)
@pytest.mark.slow
def test_a_batch_is_halved_and_then_the_tile_until_it_fits(
    limit: int, batch: int, tile: int, count: int
) -> None:
    fallback = OutOfMemoryFallback(batch=8, tile=128)
    tiles, weights = a_batch(8, 128, count)
    results = fallback.run(limited(limit), tiles, weights)

    assert results.shape == (8, count, 512, 512, 3)
    for place in range(count):
        expected = tiles.repeat(4, axis=1).repeat(4, axis=2)
        np.testing.assert_array_equal(results[:, place], expected)
    assert (fallback.batch, fallback.tile) == (batch, tile)


def test_the_working_size_is_remembered() -> None:
    fallback = OutOfMemoryFallback(batch=8, tile=128)
    compute = limited(2 * 128 * 128)
    fallback.run(compute, *a_batch(8, 128))
    retries = fallback.retries
    fallback.run(compute, *a_batch(8, 128))

    assert fallback.retries == retries == 2


@pytest.mark.slow
def test_after_a_while_of_success_it_climbs_back() -> None:
    fallback = OutOfMemoryFallback(batch=4, tile=128)
    fallback.run(limited(64 * 64), *a_batch(4, 128))  # another program uses the memory
    assert (fallback.batch, fallback.tile) == (1, 64)

    steps = set()
    for _ in range(3 * CLIMB_AFTER):
        fallback.start(lambda *batch: lambda: limited(4 * 128 * 128)(*batch), *a_batch(4, 128))()
        steps.add((fallback.batch, fallback.tile))

    assert steps == {(1, 64), (1, 128), (2, 128), (4, 128)}
    assert (fallback.batch, fallback.tile) == (4, 128)


@pytest.mark.slow
def test_a_device_that_stays_small_is_tried_less_and_less() -> None:
    fallback = OutOfMemoryFallback(batch=2, tile=64)
    falls = []
    for number in range(16 * CLIMB_AFTER):
        before = fallback.retries
        fallback.run(limited(64 * 64), *a_batch(2, 64))
        if fallback.retries > before:
            falls.append(number)

    pauses = [later - earlier for earlier, later in pairwise(falls)]
    assert pauses == [CLIMB_AFTER, 2 * CLIMB_AFTER, 4 * CLIMB_AFTER, 8 * CLIMB_AFTER]


def test_a_device_too_small_for_the_smallest_tile_is_reported() -> None:
    fallback = OutOfMemoryFallback(batch=2, tile=128)

    with pytest.raises(EngineOutOfMemory, match=f"{SMALLEST_TILE} x {SMALLEST_TILE}"):
        fallback.run(limited(64 * 64 - 1), *a_batch(2, 128))


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA error: out of memory"),  # of pinned memory, or of a graph
        RuntimeError("CUDA: out of memory"),  # of the launch of our own kernels
        MemoryError(),
    ],
)
def test_memory_that_the_allocator_does_not_manage_may_run_out_too(failure: Exception) -> None:
    fallback = OutOfMemoryFallback(batch=2, tile=64)
    fallback.run(limited(64 * 64, failure), *a_batch(2, 64))

    assert fallback.batch == 1


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    def broken(*_: object) -> Pixels:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        OutOfMemoryFallback(batch=2, tile=128).run(broken, *a_batch(2, 128))
