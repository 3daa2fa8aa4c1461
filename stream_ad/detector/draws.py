"""Random numbers of one training: all from one seeded generator."""

import torch
from torch import Tensor


class Draws:
    """Uniform, normal and whole-number draws on `device`. They come from the processor's generator, so the same seed
    gives the same ones on every device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator()
        self.generator.manual_seed(seed)
        self._device = device

    def uniform(self, *shape: int) -> Tensor:
        """Uniform over [0, 1)."""
        return torch.rand(shape, generator=self.generator).to(self._device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self._device)

    def rows(self, below: int, *shape: int) -> Tensor:
        """Whole numbers from 0 to below `below`, with replacement."""
        return torch.randint(below, shape, generator=self.generator).to(self._device)

    def permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator).to(self._device)
