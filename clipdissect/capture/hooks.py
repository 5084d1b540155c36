"""Recording what named layers return during a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.capture.output_layout import Reading, summarise
from clipdissect.capture.pooling import select
from clipdissect.errors import DissectError, unknown
from clipdissect.models.layer_patterns import split_layer

Reduce = Callable[[Tensor, Reading], Tensor]  # a layer's output to what is kept of it


class Recorder:
    """The activations of one batch, by layer; filled by the hooks of `recording`.

    Args:
        reduce: what to keep of an output, such as `reading.summarise`.
        readings: layer to how its output is read.
    """

    def __init__(self, reduce: Reduce, readings: Mapping[str, Reading]) -> None:
        self.reduce, self.readings = reduce, readings
        self._batch: dict[str, Tensor] = {}

    def take(self, layers: Sequence[str]) -> dict[str, Float[Tensor, "images ..."]]:
        """The batch's activations; forgets them.

        Raises:
            DissectError: a layer took no part in the forward pass.
        """
        for layer in layers:
            if layer not in self._batch:
                raise DissectError(f"layer {layer} exists but took no part in the forward pass")
        batch, self._batch = self._batch, {}
        return batch

    def forget(self) -> None:
        """Drop what a forward pass that failed left behind."""
        self._batch = {}

    def record(self, layer: str, parts: tuple[str, ...], output: Any) -> None:
        """Reduce a layer's output at once, to memory of its own: the network may overwrite it.

        Raises:
            DissectError: the layer ran twice in this pass, or its output can't be reduced.
        """
        if layer in self._batch:
            raise DissectError(
                f"layer {layer} runs more than once in a forward pass (a shared module), so its "
                f"units are ambiguous: choose the block around it, or the layer before or after"
            )
        tensor = select(output, parts, layer)
        reduced = self.reduce(tensor, self.readings[layer])
        self._batch[layer] = reduced.clone() if _shares_memory(reduced, tensor) else reduced


@contextmanager
def recording(
    model: nn.Module, readings: Mapping[str, Reading], reduce: Reduce = summarise
) -> Iterator[Recorder]:
    """Hook layers for the length of the block; the hooks go whatever happens in it.

    Args:
        model: the network.
        readings: layer to how its output is read.
        reduce: what to keep of an output.

    Raises:
        DissectError: a layer that doesn't exist; lists the closest names.
    """
    modules = find_layers(model, list(readings))
    recorder = Recorder(reduce, readings)
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


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _hook(
    recorder: Recorder, layer: str, parts: tuple[str, ...],
    module: nn.Module, inputs: Any, output: Any,
) -> None:  # fmt: skip
    recorder.record(layer, parts, output)
