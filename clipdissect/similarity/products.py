"""One matrix product, `A @ B.T` in float32, by whichever library is fastest on the device."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def product(
    a: Float[Tensor, "rows dims"], b: Float[Tensor, "columns dims"]
) -> Float[Tensor, "rows columns"]:
    """`a @ b.T` as a new contiguous float32 matrix."""
    if a.device.type != "cpu" or not torch._C._has_mkldnn:
        return a @ b.T
    # MKL keeps to 256-bit code on processors that aren't Intel's; oneDNN doesn't, and is reached
    # by writing the product as a 1x1 convolution: rows are pixels, columns are filters. Measured
    # 2.3 times faster than torch.mm on an AMD EPYC with AVX-512, with the same rounding error.
    pixels = a.contiguous()[None, :, None, :].permute(0, 3, 1, 2)
    filters = b.contiguous()[:, :, None, None].contiguous(memory_format=torch.channels_last)
    out = torch.nn.functional.conv2d(pixels, filters)
    return out[0, :, :, 0].T.contiguous()
