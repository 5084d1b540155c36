"""A trial of a network with two batch sizes: how each layer's output is to be read.

Shapes alone tell which axis holds the images (the one that grows with the batch), and where
convolutions put their maps; nothing is concluded from the batches of the probe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from clipdissect.capture.hooks import find_layers
from clipdissect.capture.networks import evaluating, on_device, run_network
from clipdissect.capture.output_layout import Evidence, Output, Reading, Shape, Size, declared, read
from clipdissect.capture.pooling import Summary, describe_output, select
from clipdissect.encoder.batches import floating
from clipdissect.errors import DissectError
from clipdissect.models.layer_patterns import kind_of, split_layer
from clipdissect.targets import Target

BATCHES = (2, 3)  # images of the two passes
BLANK = 256  # side of the image, before the target's own preprocessing

_FIRST = (_ConvNd, _BatchNorm, _InstanceNorm, nn.GroupNorm)
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
_POOLS = ("MaxPool", "AvgPool", "LPPool", "FractionalMaxPool")
_FIRST_NAMES = ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm")


@dataclass
class Outputs:
    """The shapes of one forward pass.

    Args:
        shapes: layer to the shape of each of its outputs that could be used.
        problems: layer to why its output couldn't.
        runs: layer to how often it ran.
        words: layer to its output in words.
        grids, layouts: see `reading.Evidence`.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    words: dict[str, str] = field(default_factory=dict)
    grids: set[Size] = field(default_factory=set)
    layouts: dict[Shape, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, layers: Sequence[str], module: nn.Module, inputs: Any, output: Any) -> None:
        """Take in what a module returned; a forward hook once the layers are bound."""
        own = units_axis(module)
        if own is not None and isinstance(output, Tensor):
            self.layouts[tuple(output.shape)].add(own)
            if own == "first" and output.ndim == 4:
                self.grids.add((int(output.shape[2]), int(output.shape[3])))
        for layer in layers:
            self.runs[layer] += 1
            self.words[layer] = describe_output(output)
            try:
                tensor = select(output, split_layer(layer)[1], layer)
            except DissectError as error:
                self.problems[layer] = str(error)
                continue
            self.shapes[layer] = tuple(int(n) for n in tensor.shape)
            if own is None and _is_attention(tensor):
                self.problems[layer] = f"layer {layer} returns attention weights, not activations"


@dataclass(frozen=True)
class Trial:
    """What the passes of a trial showed.

    Args:
        model: the network.
        passes: with two batch sizes; one, of a program that takes one image at once.
        size: height and width of the network's input.
        grown: layer to its output's shape on an input of twice the size, where that is known.
    """

    model: nn.Module
    passes: tuple[Outputs, ...]
    size: Size
    grown: Mapping[str, Shape] = field(default_factory=dict)

    def read(self, layer: str, summary: Summary) -> Reading:
        """How a layer's output is read; see `reading.read`.

        Raises:
            DissectError: it didn't run, ran more than once, returned no tensor, or a tensor whose
                axes can't be told apart.
        """
        shapes = [self._shape(outputs, layer) for outputs in self.passes]
        images = _images_axis(layer, shapes)
        name, parts = split_layer(layer)
        own = None if parts else units_axis(self.model.get_submodule(name))
        first = self.passes[0]
        evidence = Evidence(
            self.size, frozenset(first.grids),
            {shape: frozenset(seen) for shape, seen in first.layouts.items()}, self.grown,
        )  # fmt: skip
        output = Output(layer, shapes[0], images, own)
        return read(output, summary, evidence, declared(self.model, name))

    def _shape(self, outputs: Outputs, layer: str) -> Shape:
        runs = outputs.runs[layer]
        if not runs:
            raise DissectError(f"layer {layer} exists but took no part in the forward pass")
        if runs > 1:
            raise DissectError(
                f"layer {layer} runs {runs} times in a forward pass (a shared module), so its "
                f"units are ambiguous: choose the block around it, or the layer before or after"
            )
        if layer in outputs.problems:
            raise DissectError(outputs.problems[layer])
        return outputs.shapes[layer]


@torch.no_grad()
def try_out(target: Target, layers: Sequence[str]) -> Trial:
    """Run a network, where it is, on blank images in two batch sizes.

    Args:
        target: the network and its preprocessing; evaluation mode is set for the trial alone.
        layers: names whose outputs are looked at, with `[part]` where one is to be selected.

    Raises:
        DissectError: the network fails on images of its own preprocessing.
    """
    image = target.preprocess(Image.new("RGB", (BLANK, BLANK), (128, 128, 128)))[None]
    like = floating(target.model, image)
    image = image.to(like.device, like.dtype)
    size = (int(image.shape[-2]), int(image.shape[-1]))
    drawing = torch.random.fork_rng([image.device] if image.is_cuda else [])  # some networks draw
    with evaluating(target.model), drawing:
        passes = _passes(target.model, layers, image)
        trial = Trial(target.model, passes, size)
        unsure = [layer for layer in layers if _is_unsure(trial, layer)]
        grown = _grown(target.model, unsure, image) if unsure else {}
    return replace(trial, grown=grown)


def read_layers(
    target: Target, layers: Sequence[str], summary: Summary, device: str = "cpu"
) -> dict[str, Reading]:
    """How the outputs of some layers are read, found out by a trial on the device.

    Raises:
        DissectError: an unknown layer, or as `try_out` and `Trial.read`.
    """
    find_layers(target.model, layers)
    with on_device(target.model, device):
        trial = try_out(target, layers)
    return {layer: trial.read(layer, summary) for layer in layers}


def units_axis(module: nn.Module) -> str | None:
    """`first` or `last` where a module's type says on which axis it puts its units, else None.

    Convolutions, their norms and pools put them first, also in classes derived from them; linear
    layers and layer norms last, unless a derived class has a `forward` of its own.
    """
    if next(module.children(), None) is not None:
        return None
    kind, is_program = kind_of(module), kind_of(module) != type(module).__name__
    if isinstance(module, _FIRST) or (is_program and kind.startswith(_FIRST_NAMES)):
        return "first"
    if kind.removeprefix("Adaptive").startswith(_POOLS) and _is_torchs(module, is_program):
        return "first"
    of_torch = any(type(module).forward is last.forward for last in _LAST)
    if of_torch or (is_program and kind in {last.__name__ for last in _LAST}):
        return "last" if _is_over_units(module) else None
    return None


def _is_over_units(module: nn.Module) -> bool:
    """False of a layer norm over whole maps `(units, h, w)`, which says nothing of their order."""
    weight = getattr(module, "weight", None)
    of_weight = () if isinstance(module, nn.Linear) or weight is None else weight.shape
    return len(getattr(module, "normalized_shape", of_weight)) <= 1


def _is_attention(output: Tensor) -> bool:
    """Whether rows of square matrices sum to one: attention between as many tokens as a map has
    rows couldn't be told from a map by its shape."""
    if output.ndim != 4 or output.shape[2] != output.shape[3] or output.shape[3] == 1:
        return False
    if output.is_meta or not output.is_floating_point():
        return False
    return bool((output.float().sum(-1) - 1).abs().amax() < 1e-2)  # bf16 has three digits


def _is_torchs(module: nn.Module, is_program: bool) -> bool:
    return is_program or type(module).__module__.startswith("torch.nn.")


def _passes(model: nn.Module, layers: Sequence[str], image: Tensor) -> tuple[Outputs, ...]:
    sizes = [image.expand(n, -1, -1, -1).contiguous() for n in BATCHES]
    try:
        return tuple(_watched(model, layers, images) for images in sizes)
    except DissectError:
        try:
            return (_watched(model, layers, image),)  # a program for one image at once
        except DissectError:
            pass
        raise


def _watched(model: nn.Module, layers: Sequence[str], images: Tensor) -> Outputs:
    """The shapes of one pass."""
    outputs = Outputs()
    with _hooked(model, layers, outputs):
        run_network(model, images)
    return outputs


def _grown(model: nn.Module, layers: Sequence[str], image: Tensor) -> dict[str, Shape]:
    """Shapes of the layers' outputs on two blank images of twice the size, as far as it got."""
    larger = image.repeat(BATCHES[0], 1, 2, 2)
    outputs = Outputs()
    try:
        with _hooked(model, layers, outputs):
            run_network(model, larger)
    except DissectError:  # a network for one size of input; the layers before that have run
        pass
    return outputs.shapes


def _is_unsure(trial: Trial, layer: str) -> bool:
    shape = trial.passes[0].shapes.get(layer, ())
    if len(shape) != 4:
        return False
    try:
        trial.read(layer, Summary())
    except DissectError:
        return True
    return len(set(shape[1:])) == 1


@contextmanager
def _hooked(model: nn.Module, layers: Sequence[str], outputs: Outputs) -> Iterator[None]:
    """All modules' outputs go to `outputs` within the block."""
    names: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        names[split_layer(layer)[0]].append(layer)
    handles = []
    try:
        of_module: dict[nn.Module, list[str]] = defaultdict(list)
        for name, module in model.named_modules(remove_duplicate=False):
            of_module[module] += names.get(name, []) if name else []
        for module, own in of_module.items():
            handles.append(module.register_forward_hook(partial(outputs.add, own)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _images_axis(layer: str, shapes: Sequence[Shape]) -> int:
    """The axis that grows with the batch."""
    if len(shapes) == 1:
        return 0
    if len(shapes[0]) == len(shapes[1]):
        pairs = list(zip(*shapes, strict=True))
        grown = [axis for axis, pair in enumerate(pairs) if pair[0] != pair[1]]
        if len(grown) == 1 and pairs[grown[0]] == BATCHES:
            return grown[0]
    raise DissectError(
        f"layer {layer} returns {shapes[0]} for {BATCHES[0]} images and {shapes[1]} for "
        f"{BATCHES[1]}: no axis holds the images"
    )
