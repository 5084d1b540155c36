"""Record the outputs of named layers during a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.capture.output_layout import Reading, summarise
from clipdissect.capture.pooling import select
from clipdissect.errors import DissectError, unknown
from clipdissect.models.layer_patterns import split_layer

Reduce = Callable[[Tensor, Reading], Tensor]  # of a layer's output at once, into new memory
Hook = Callable[[nn.Module, Any, Any], None]


class Recorder:
    """The activations of one batch, by layer; filled by the hooks of `recording`."""

    def __init__(self, reduce: Reduce, readings: Mapping[str, Reading]) -> None:
        self.reduce, self.readings = reduce, readings
        self._batch: dict[str, Tensor] = {}
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing within the block, in which another network may run the same modules."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def take(self, layers: Sequence[str]) -> dict[str, Float[Tensor, "images ..."]]:
        """Return the batch's activations and forget them."""
        for layer in layers:
            if layer not in self._batch:
                raise not_run(layer)
        batch, self._batch = self._batch, {}
        return batch

    def forget(self) -> None:
        """Discard the outputs of a failed forward pass."""
        self._batch = {}

    def record(self, layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Reduce a layer's output at once; a forward hook once the layer is bound."""
        if self._is_paused:
            return
        if layer in self._batch:
            raise run_repeatedly(layer)
        tensor = select(output, split_layer(layer)[1], layer)
        self._batch[layer] = self.reduce(tensor, self.readings[layer])


def not_run(layer: str) -> DissectError:
    return DissectError(f"layer {layer} exists but does not run in the forward pass")


def run_repeatedly(layer: str, times: str = "more than once") -> DissectError:
    return DissectError(
        f"layer {layer} runs {times} in a forward pass (a shared module), so its units are "
        f"ambiguous: choose the block around it, or the layer before or after"
    )


@contextmanager
def recording(
    model: nn.Module, readings: Mapping[str, Reading], reduce: Reduce = summarise
) -> Iterator[Recorder]:
    """Record the outputs of the layers of `readings`, reduced at once, within the block."""
    recorder = Recorder(reduce, readings)
    modules = find_layers(model, list(readings))
    with hooked((module, partial(recorder.record, layer)) for layer, module in modules.items()):
        yield recorder


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Register forward hooks, which are removed when the block ends, even after an error."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules of the layers, in order; raise a DissectError if one is missing."""
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    layer_modules = {}
    for layer in layers:
        name, _ = split_layer(layer)
        if name not in modules:
            raise unknown("layer", name, modules, most=12)
        layer_modules[layer] = modules[name]
    return layer_modules
