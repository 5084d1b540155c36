"""Recording what named layers return during a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.errors import DissectError, unknown
from clipdissect.summary import Context, select, split_layer

# Attributes by which convolutions and their norms, which put units first, tell their width.
CONV = ("out_channels", "num_features", "num_channels")
Reduce = Callable[[Tensor, Context], Tensor]  # a layer's output to what is kept of it
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls_embed")


class Recorder:
    """The activations of one batch, by layer; filled by the hooks of `recording`.

    Args:
        reduce: what to keep of an output, such as a `Summary`.
        contexts: layer to what is known of it.
    """

    def __init__(self, reduce: Reduce, contexts: dict[str, Context]) -> None:
        self.reduce, self.contexts = reduce, contexts
        self.input_size = (1, 1)
        self._batch: dict[str, Tensor] = {}
        self._met: set[str] = set()

    def take(self, layers: Sequence[str]) -> dict[str, Float[Tensor, "images ..."]]:
        """The batch's activations; forgets them.

        Raises:
            DissectError: a layer took no part in the forward pass.
        """
        for layer in layers:
            if layer not in self._batch:
                raise DissectError(f"layer {layer} exists but took no part in the forward pass")
        batch, self._batch = self._batch, {}
        self._met.update(batch)
        return batch

    def forget(self) -> None:
        """Drop what a forward pass that failed left behind."""
        self._batch = {}

    def record(self, layer: str, parts: tuple[str, ...], output: Any) -> None:
        """Sum up a layer's output at once: a later in-place operation may overwrite it.

        Raises:
            DissectError: the layer ran twice in this pass, or its output can't be summed up.
        """
        if layer in self._batch:
            raise DissectError(
                f"layer {layer} runs more than once in a forward pass (a shared module), so its "
                f"units are ambiguous: choose the block around it, or the layer before or after"
            )
        tensor = select(output, parts, layer)
        if tensor.ndim == 3 and tensor.shape[0] == tensor.shape[1] and layer not in self._met:
            raise DissectError(
                f"layer {layer} returns {tuple(tensor.shape)}: as many tokens as images in the "
                f"batch, so which axis is which can't be told. Use another capture.batch_size"
            )
        context = replace(self.contexts[layer], input_size=self.input_size)
        self._batch[layer] = self.reduce(tensor, context)


@contextmanager
def recording(model: nn.Module, layers: Sequence[str], reduce: Reduce) -> Iterator[Recorder]:
    """Hook the layers for the length of the block; the hooks go whatever happens in it.

    Raises:
        DissectError: a layer that doesn't exist; lists the closest names.
    """
    modules = find_layers(model, layers)
    with_token = has_class_token(model)
    contexts = {layer: context_of(layer, module, with_token) for layer, module in modules.items()}
    recorder = Recorder(reduce, contexts)
    handles = []
    try:
        for layer, module in modules.items():
            _, parts = split_layer(layer)
            handles.append(module.register_forward_hook(partial(_hook, recorder, layer, parts)))
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules behind layer names, in the order given.

    Raises:
        DissectError: a layer that doesn't exist; lists the closest names.
    """
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    found = {}
    for layer in layers:
        name, _ = split_layer(layer)
        if name not in modules:
            raise unknown("layer", name, modules, most=12)
        found[layer] = modules[name]
    return found


def has_class_token(model: nn.Module) -> bool:
    """Whether any of the network's parameters is named as class tokens are."""
    names = (name.rsplit(".", 1)[-1] for name, _ in model.named_parameters())
    return any(name in CLASS_TOKENS for name in names)


def context_of(layer: str, module: nn.Module, with_token: bool) -> Context:
    """What the layer's last part with weights says about its units."""
    for part in reversed(list(module.modules())):
        for name in ("out_channels", "num_features", "num_channels", "out_features"):
            width = getattr(part, name, None)
            if isinstance(width, int):
                return Context(layer, with_token, features=width, from_convolution=name in CONV)
        shape = getattr(part, "normalized_shape", None)
        if shape:
            return Context(layer, with_token, features=int(shape[-1]))
    return Context(layer, with_token)


def _hook(
    recorder: Recorder, layer: str, parts: tuple[str, ...],
    module: nn.Module, inputs: Any, output: Any,
) -> None:  # fmt: skip
    recorder.record(layer, parts, output)
