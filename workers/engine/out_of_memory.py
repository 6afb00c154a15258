"""Out-of-memory fallback: retry with smaller batches and tiles, and keep these for a while.

Batches are halved down to one tile, then the tile is cut into smaller ones with the same context,
down to `SMALLEST_TILE`. The retry happens outside the `except` block, where the traceback no longer
keeps the tensors of the failed attempt alive. After many batches that fit, one step up is tried:
another program may have used the memory before. Each failure doubles the time to the next try.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from model.memory import is_out_of_memory
from workers.contract.errors import EngineOutOfMemory
from workers.engine.protocol import FEATHER, HALO
from workers.tiles.tiling import Canvas, Pixels, cut, plan_tiles

SMALLEST_TILE = 64
#: Batches that have to fit before a step up is tried: after the first failure, and at most.
CLIMB_AFTER, CLIMB_AT_LAST = 100, 6400

Compute = Callable[[Pixels, NDArray[np.float32]], Pixels]
"""(N, T, T, 3) tiles and their (N, R, 4) weights -> (N, R, 4T, 4T, 3)."""
Begin = Callable[[Pixels, NDArray[np.float32]], Callable[[], Pixels]]
"""As `Compute`, but starts it, and returns a function that waits for the result."""
Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class OutOfMemoryFallback:
    """The batch and tile size that fit this device, as learned so far."""

    batch: int
    tile: int
    retries: int = 0
    release: Callable[[], None] = lambda: None
    """Releases cached device memory; called before a retry."""
    _top: tuple[int, int] = field(init=False)
    _fitted: int = 0
    """Batches since the last step up or down."""
    _climb_after: int = CLIMB_AFTER // 2

    def __post_init__(self) -> None:
        self._top = self.batch, self.tile

    def run(self, compute: Compute, tiles: Pixels, weights: NDArray[np.float32]) -> Pixels:
        """Compute the tiles in pieces that fit.

        Raises:
            EngineOutOfMemory: a single tile of the smallest size does not fit.
        """
        fell = False
        while True:
            results = self._attempt(compute, tiles, weights)
            if results is not None:
                self._fits()
                return results
            if not fell:
                fell, self._climb_after = True, min(2 * self._climb_after, CLIMB_AT_LAST)
            self.release()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._step_down()

    def start(
        self, begin: Begin, tiles: Pixels, weights: NDArray[np.float32]
    ) -> Callable[[], Pixels]:
        """Start a batch; returns a function that waits for the results.

        A batch that is known or found not to fit is left to `run`: by then the previous batch is
        done and its memory is free.
        """
        fetch = None
        if len(tiles) <= self.batch and tiles.shape[1] <= self.tile:
            fetch = self._unless_out_of_memory(lambda: begin(tiles, weights))

        def finish() -> Pixels:
            results = None if fetch is None else self._unless_out_of_memory(fetch)
            if results is not None:
                self._fits()
                return results
            return self.run(lambda some, their: begin(some, their)(), tiles, weights)

        return finish

    def _unless_out_of_memory(self, action: Callable[[], Result]) -> Result | None:
        try:
            return action()
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
            return None

    def _attempt(
        self, compute: Compute, tiles: Pixels, weights: NDArray[np.float32]
    ) -> Pixels | None:
        """The results, or None if the memory was exhausted."""
        pieces = self._unless_out_of_memory(
            lambda: [
                self._piece(compute, tiles[at : at + self.batch], weights[at : at + self.batch])
                for at in range(0, len(tiles), self.batch)
            ]
        )
        if pieces is None:
            return None
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _piece(self, compute: Compute, tiles: Pixels, weights: NDArray[np.float32]) -> Pixels:
        side = tiles.shape[1]
        if side <= self.tile:
            return compute(tiles, weights)
        plan = plan_tiles(height=side, width=side, tile=self.tile, halo=HALO, feather=FEATHER)
        results = []
        for tile, weight in zip(tiles, weights, strict=True):
            canvases = [Canvas(plan) for _ in weight]
            for part in cut(tile, plan):
                pieces = compute(part[None], weight[None])[0]
                for canvas, piece in zip(canvases, pieces, strict=True):
                    canvas.add(piece)
            results.append(np.stack([canvas.whole() for canvas in canvases]))
        return np.stack(results)

    def _fits(self) -> None:
        """Count a batch that fit; after enough of them try one step up, tiles first."""
        if (self.batch, self.tile) == self._top:
            return
        self._fitted += 1
        if self._fitted >= self._climb_after:
            self._fitted = 0
            most, largest = self._top
            if self.tile < largest:
                self.tile = min(largest, 2 * self.tile)
            else:
                self.batch = min(most, 2 * self.batch)
            log.info("trying more memory again: batch %d, tile %d", self.batch, self.tile)

    def _step_down(self) -> None:
        self.retries += 1
        self._fitted = 0
        if self.batch > 1:
            self.batch //= 2
        elif self.tile > SMALLEST_TILE:
            self.tile = max(SMALLEST_TILE, self.tile // 2)
        else:
            raise EngineOutOfMemory(tile=self.tile)
        log.warning("out of memory: continuing with batch %d, tile %d", self.batch, self.tile)
