"""Random numbers for a batch: one per image, from one generator, on its device.

Nothing waits for the device, and the numbers depend only on the generator's seed.

Shapes: N batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Draws random numbers for `count` images."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float) -> Tensor:
        """Uniform in [`low`, `high`]: (N,)."""
        return low + (high - low) * self._random()

    def bernoulli(self, probability: float) -> Tensor:
        """Bernoulli with this probability: (N,) of bool."""
        return self._random() < probability

    def choice(self, weights: Sequence[float]) -> Tensor:
        """Categorical: (N,) indices into `weights`, which need not add up to 1."""
        shares = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        bounds = (shares[:-1] / shares[-1]).float().tolist()
        pick = self._random()
        chosen = torch.zeros_like(pick, dtype=torch.long)
        for bound in bounds:
            chosen += pick >= bound
        return chosen

    def normal(self, *shape: int) -> Tensor:
        """Standard normal: (N, *shape)."""
        return torch.randn(
            (self.count, *shape), generator=self.generator, device=self.generator.device
        )

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts, with the shape of `rates`."""
        return torch.poisson(rates, generator=self.generator)

    def _random(self) -> Tensor:
        return torch.rand(self.count, generator=self.generator, device=self.generator.device)
