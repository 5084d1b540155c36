"""Sparse autoencoders whose codes can be worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipdissect.sae import Sae


class Linear(nn.Module):
    """`relu(x W_enc + b_enc)`, then perhaps the largest `k`; `decode` is `codes W_dec`."""

    def __init__(self, weight: Tensor, bias: Tensor | float = 0.0, k: int | None = None) -> None:
        super().__init__()
        self.W_enc, self.k = nn.Parameter(weight.clone()), k
        self.b_enc = nn.Parameter(torch.zeros(weight.shape[1]) + bias)
        self.W_dec = nn.Parameter(weight.T.clone())

    def encode(self, x: Tensor) -> Tensor:
        codes = (x @ self.W_enc + self.b_enc).relu()
        if self.k is None:
            return codes
        best = codes.topk(self.k, dim=-1)
        return torch.zeros_like(codes).scatter(-1, best.indices, best.values)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec


def sae(weight: Tensor, bias: Tensor | float = 0.0, k: int | None = None, **facts: object) -> Sae:
    module = Linear(weight, bias, k)
    latents, inputs = module.W_dec.shape
    sizes = {"inputs": inputs, "latents": latents, "decoder": module.W_dec.detach()}
    return Sae("hand", module, **{**sizes, **facts})  # type: ignore[arg-type]


def random_sae(inputs: int, latents: int, k: int | None = None, bias: float = 0.0) -> Sae:
    drawn = torch.Generator().manual_seed(0)
    return sae(torch.randn(inputs, latents, generator=drawn) / inputs**0.5, bias, k)
