"""Products of rows with a matrix that is kept: by oneDNN where nothing is being learned.

PyTorch leaves products of float32 on x86 to MKL, which uses half the width of processors that are not Intel's: there
oneDNN is two to five times as fast. It cannot be differentiated, knows no float64, and is not in every build, so what
trains, and what runs on a GPU or another processor, takes PyTorch's own way.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEWEST = 2**20
"""Multiplications from which on oneDNN is worth its call, which takes ten microseconds."""

if torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available():

    def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product

else:

    def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., i] @ weight [o, i] transposed + bias [o] -> [..., o]."""
    rows = x.flatten(0, -2)
    if worthwhile(x, rows.shape[0] * weight.numel()):
        product: Tensor = by_onednn(rows, weight, bias).unflatten(0, x.shape[:-1])
        return product
    return F.linear(x, weight, bias)


def batched(x: Tensor, weight: Tensor) -> Tensor:
    """x [g, n, i] @ weight [g, i, o] -> [g, n, o], float32."""
    if worthwhile(x, x.shape[1] * weight[0].numel()):
        return torch.stack([by_onednn(x[k], weight[k].t(), None) for k in range(x.shape[0])])
    return torch.bmm(x, weight)


def worthwhile(x: Tensor, multiplications: int, fewest: int = FEWEST) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.is_cuda or x.dtype != torch.float32:
        return False
    return multiplications >= fewest


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)
