"""Sortable keys: a value and its number in one integer, so that ties have one order everywhere.

Sorting these integers in descending order sorts values in descending order and equal values by
ascending number. All keys differ, so any sort or selection, on any device, gives the same answer.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LOW = 0xFFFFFFFF
_NO_SIGN = 0x7FFFFFFF


def pack(values: Float[Tensor, "*shape"], numbers: Int[Tensor, "*#shape"]) -> Int[Tensor, "*shape"]:
    """Keys of float32 values and numbers below 2^32 (broadcast against the values)."""
    # Adding zero turns -0.0 into 0.0: they are equal, so only the number may decide.
    bits = (values + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & _NO_SIGN)
    return (ordered.long() << 32) | (_LOW - numbers)


def unpack(keys: Int[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Int[Tensor, "*shape"]]:
    """The values (float32) and numbers (int64) of keys."""
    ordered = (keys >> 32).int()
    bits = ordered ^ ((ordered >> 31) & _NO_SIGN)
    return bits.view(torch.float32), _LOW - (keys & _LOW)
