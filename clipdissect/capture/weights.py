"""Networks' weights in another type or memory layout for the length of a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clipdissect.capture.settings import BF16_WEIGHTS, Settings
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError


@contextmanager
def converted(model: nn.Module, settings: Settings) -> Iterator[None]:
    """Hold a network's weights as the settings say; afterwards restore the very tensors.

    With `bf16_weights`, float32 tensors are bfloat16, except those of batch norms. On CUDA, weights
    of convolutions are channels-last, as the images are.
    """
    before: dict[Tensor, Tensor] = {}
    try:
        for module in model.modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            for tensor in own:
                data = tensor.data
                changed = _converted(module, data, settings)
                if changed is not data:
                    before[tensor] = data
                    tensor.data = changed
        yield
    finally:
        for tensor, data in before.items():
            tensor.data = data


def _converted(module: nn.Module, data: Tensor, settings: Settings) -> Tensor:
    # Batch norms take float32 weights with bfloat16 images, and their variances need the digits.
    if settings.mode == BF16_WEIGHTS and not isinstance(module, _BatchNorm):
        data = data.bfloat16() if data.dtype == torch.float32 else data
    # A derived class may reshape its weight in a way that needs the other layout.
    is_convolution = type(module).forward is nn.Conv2d.forward and data.ndim == 4
    if is_convolution and settings.is_cuda:
        data = data.contiguous(memory_format=torch.channels_last)
    return data


def network_of_images(encoder: Encoder, settings: Settings) -> nn.Module | None:
    """Return the encoder's network of images, if it says which that is (`image_network`).

    Raises:
        DissectError: it doesn't, and `bf16_weights` must convert it.
    """
    network: nn.Module | None = getattr(encoder, "image_network", None)
    if network is None and settings.mode == BF16_WEIGHTS:
        raise DissectError(
            f"precision {BF16_WEIGHTS} needs the encoder's network, and {encoder.name} has no "
            f"attribute image_network that holds it: use precision=bf16 (capture.precision=bf16)"
        )
    return network
