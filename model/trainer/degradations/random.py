"""Random numbers for a batch: one for each image, from one generator, on its device.

Nothing here waits for the device, and what is drawn depends on the generator's seed alone.

Shapes: N batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Numbers for `count` images."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float) -> Tensor:
        """(N,) between `low` and `high`."""
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> Tensor:
        """(N,) true as often as that."""
        return self._random() < probability

    def choice(self, weights: Sequence[float]) -> Tensor:
        """(N,) indices into `weights`, each as often as its share of their sum."""
        shares = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        bounds = (shares[:-1] / shares[-1]).float().tolist()
        pick = self._random()
        chosen = torch.zeros_like(pick, dtype=torch.long)
        for bound in bounds:
            chosen += pick >= bound
        return chosen

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) with a standard deviation of 1."""
        return torch.randn(
            (self.count, *shape), generator=self.generator, device=self.generator.device
        )

    def poisson(self, rates: Tensor) -> Tensor:
        """Counts, of the shape of `rates`."""
        return torch.poisson(rates, generator=self.generator)

    def _random(self) -> Tensor:
        return torch.rand(self.count, generator=self.generator, device=self.generator.device)
