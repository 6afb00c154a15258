"""An engine in the calling process: no queue, no socket, the same network and memory fallback."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np

from model.inference.forward import NotFinite
from workers.contract.errors import TileNotFinite
from workers.engine.loading import LoadedEngine
from workers.engine.out_of_memory import OutOfMemoryFallback
from workers.tiles.tiling import Pixels
from workers.tiles.trade_off import Weights


class InProcessEngine:
    """See `workers.engine.client.Engine`."""

    def __init__(self, loaded: LoadedEngine) -> None:
        self.tiles = loaded.tiles
        self._loaded = loaded
        self._fallback = OutOfMemoryFallback(
            batch=loaded.max_batch, tile=max(loaded.tiles), release=loaded.release
        )

    def run(
        self,
        tiles: Iterable[Pixels],
        *,
        model: str,
        weights: Sequence[Weights],
        consistent: bool | None = None,
    ) -> Iterator[Pixels]:
        """See `Engine.run`."""
        if consistent is None:
            consistent = self._loaded.consistency(model)
        compute = partial(self._loaded.forwards[model].ready(), consistent=consistent)
        remaining = iter(tiles)
        for first in remaining:
            most = self._loaded.batches[len(first)]
            batch = [first, *islice(remaining, most - 1)]
            shares = np.tile(np.array(weights, dtype=np.float32), (len(batch), 1, 1))
            try:
                yield from self._fallback.run(compute, np.stack(batch), shares)
            except NotFinite:
                raise TileNotFinite from None
