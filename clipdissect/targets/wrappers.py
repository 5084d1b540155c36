"""Take off what training puts around a network, so that layers keep their plain names."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from clipdissect.errors import DissectError
from clipdissect.models.layer_patterns import split_layer
from clipdissect.utils.fingerprint import is_compile_wrapper

# What `DataParallel` and `torch.compile` put before the names of layers and tensors.
PREFIXES = ("module.", "_orig_mod.")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside `DataParallel`, `torch.compile` and the like, or itself.

    Hooks in the wrapper's copies would run several times per pass, or not at all.
    """
    inner: Any = None
    if isinstance(model, (nn.DataParallel, DistributedDataParallel, AveragedModel)):
        inner = model.module
    elif is_compile_wrapper(model):
        inner = model._orig_mod
    return unwrap(inner) if isinstance(inner, nn.Module) else model


def plain_name(layer: str, model: nn.Module) -> str:
    """Return a layer's name in the network, whether it was given with wrappers' prefixes or not."""
    for prefix in PREFIXES * 2:  # one may stand before the other
        if layer.startswith(prefix) and not hasattr(model, prefix.rstrip(".")):
            layer = layer.removeprefix(prefix)
    # A compiled part of the network has its mark inside of names.
    name, _ = split_layer(layer)
    modules = dict(model.named_modules(remove_duplicate=False))
    marked: dict[str, str] = {n.replace("_orig_mod.", ""): n for n in modules if "_orig_mod." in n}
    if name in modules or name not in marked:
        return layer
    return marked[name] + layer.removeprefix(name)


def check_initialised(model: nn.Module) -> None:
    """Raise a DissectError if parameters of lazy modules have no shape yet."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise DissectError(
            f"{len(lazy)} tensors of the network have no shape yet, such as {lazy[0]} (of an "
            f"nn.Lazy... module). Load trained weights first (target=checkpoint does), or run the "
            f"network once: model(torch.zeros(1, 3, 224, 224))"
        )
