"""Recording what named layers return during a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.errors import DissectError, unknown
from clipdissect.summary import Summary, select, split_layer, summarise

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls_embed")


class Recorder:
    """The activations of one batch, by layer; filled by the hooks of `recording`."""

    def __init__(self, summary: Summary, has_class_token: bool) -> None:
        self.summary = summary
        self.has_class_token = has_class_token
        self.square_input = True
        self._batch: dict[str, Tensor] = {}

    def take(self, layers: Sequence[str]) -> dict[str, Float[Tensor, "images units"]]:
        """The batch's activations; forgets them.

        Raises:
            DissectError: a layer took no part in the forward pass.
        """
        for layer in layers:
            if layer not in self._batch:
                raise DissectError(f"layer {layer} exists but took no part in the forward pass")
        batch, self._batch = self._batch, {}
        return batch

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
        self._batch[layer] = summarise(
            tensor, self.summary, self.has_class_token, self.square_input, layer
        )


@contextmanager
def recording(model: nn.Module, layers: Sequence[str], summary: Summary) -> Iterator[Recorder]:
    """Hook the layers for the length of the block; the hooks go whatever happens in it.

    Raises:
        DissectError: a layer that doesn't exist; lists the closest names.
    """
    modules = find_layers(model, layers)
    recorder = Recorder(summary, has_class_token(model))
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


def _hook(
    recorder: Recorder, layer: str, parts: tuple[str, ...],
    module: nn.Module, inputs: Any, output: Any,
) -> None:  # fmt: skip
    recorder.record(layer, parts, output)
