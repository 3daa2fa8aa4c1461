"""Random numbers of one training: all from one seeded generator, on the device of the data."""

import torch
from torch import Tensor


class Draws:
    """Uniform, normal and whole-number draws; the same seed gives the same ones on the same device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)
        self._device = device

    def uniform(self, *shape: int) -> Tensor:
        """Uniform over [0, 1)."""
        return torch.rand(shape, device=self._device, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device, generator=self.generator)

    def rows(self, below: int, *shape: int) -> Tensor:
        """Whole numbers from 0 to below `below`, with replacement."""
        return torch.randint(below, shape, device=self._device, generator=self.generator)

    def permutation(self, n: int) -> Tensor:
        return torch.randperm(n, device=self._device, generator=self.generator)
