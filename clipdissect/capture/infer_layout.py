"""Infer how layer outputs are read, by a trial run with two batch sizes on blank images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from clipdissect.capture.hooks import find_layers, hooked, not_run, run_repeatedly
from clipdissect.capture.networks import (
    evaluating,
    has_compiled_parts,
    on_device,
    run_network,
)
from clipdissect.capture.output_layout import Evidence, Output, Reading, Shape, Size, declared, read
from clipdissect.capture.pooling import COUNT, Summary, describe_output, select
from clipdissect.encoder.batches import floating
from clipdissect.errors import DissectError
from clipdissect.models.layer_patterns import kind_of, split_layer
from clipdissect.sae.base import Sae
from clipdissect.targets import Target

BATCHES = (2, 3)  # images of the two passes
BLANK = 256  # side of the image, before the target's own preprocessing

_FIRST = (_ConvNd, _BatchNorm, _InstanceNorm, nn.GroupNorm)
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
_POOLS = ("MaxPool", "AvgPool", "LPPool", "FractionalMaxPool")
_FIRST_NAMES = ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm")


@dataclass
class Outputs:
    """The shapes of one forward pass, by layer; `grids` and `layouts` as in `Evidence`."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)  # why an output is unusable
    runs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    words: dict[str, str] = field(default_factory=dict)  # descriptions of outputs
    grids: set[Size] = field(default_factory=set)
    layouts: dict[Shape, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, layers: Sequence[str], module: nn.Module, inputs: Any, output: Any) -> None:
        """Record a module's output; a forward hook once the layer names are bound."""
        axis = units_axis(module)
        if axis is not None and isinstance(output, Tensor):
            self.layouts[tuple(output.shape)].add(axis)
            if axis == "first" and output.ndim == 4:
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
            if axis is None and _is_attention(tensor):
                self.problems[layer] = f"layer {layer} returns attention weights, not activations"

    def run(self, model: nn.Module, layers: Sequence[str], images: Tensor) -> Outputs:
        """Run a network and record its modules' outputs, even if it fails half-way."""
        of_name: dict[str, list[str]] = defaultdict(list)
        for layer in layers:
            of_name[split_layer(layer)[0]].append(layer)
        of_module: dict[nn.Module, list[str]] = defaultdict(list)
        for name, module in model.named_modules(remove_duplicate=False):
            of_module[module] += of_name.get(name, []) if name else []
        with hooked((module, partial(self.add, names)) for module, names in of_module.items()):
            run_network(model, images, has_compiled_parts(model))
        return self


@dataclass(frozen=True)
class Trial:
    """The passes of a trial: two batch sizes, or one pass for single-image programs."""

    model: nn.Module
    passes: tuple[Outputs, ...]
    size: Size  # of the network's input
    grown: Mapping[str, Shape] = field(default_factory=dict)  # on an input of twice the size

    def read(self, layer: str, summary: Summary) -> Reading:
        shapes = [self._shape(outputs, layer) for outputs in self.passes]
        name, parts = split_layer(layer)
        axis = None if parts else units_axis(self.model.get_submodule(name))
        first = self.passes[0]
        layouts = {shape: frozenset(seen) for shape, seen in first.layouts.items()}
        evidence = Evidence(self.size, frozenset(first.grids), layouts, self.grown)
        output = Output(layer, shapes[0], _images_axis(layer, shapes), axis)
        return read(output, summary, evidence, declared(self.model, name))

    def read_latents(self, layer: str, summary: Summary, sae: Sae) -> Reading:
        """Return how the activations that a sparse autoencoder encodes are read."""
        kind = sae.summary if summary.kind == "auto" else summary.kind
        pooled = replace(summary, kind="mean" if kind == COUNT else kind)
        reading = self.read(layer, pooled)
        sae.check_inputs(reading.units_of(self._shape(self.passes[0], layer)), layer)
        return replace(reading, kind=kind) if kind == COUNT else reading

    def _shape(self, outputs: Outputs, layer: str) -> Shape:
        runs = outputs.runs[layer]
        if not runs:
            raise not_run(layer)
        if runs > 1:
            raise run_repeatedly(layer, f"{runs} times")
        if layer in outputs.problems:
            raise DissectError(outputs.problems[layer])
        return outputs.shapes[layer]

    def is_ambiguous(self, layer: str) -> bool:
        """Return whether a layer's maps have axes that this trial can't identify."""
        shape = self.passes[0].shapes.get(layer, ())
        if len(shape) != 4:
            return False
        try:
            self.read(layer, Summary())
        except DissectError:
            return True
        return len(set(shape[1:])) == 1


@torch.no_grad()
def try_out(target: Target, layers: Sequence[str]) -> Trial:
    """Run a network in evaluation mode on blank images, in two batch sizes."""
    model = target.model
    image = target.preprocess(Image.new("RGB", (BLANK, BLANK), (128, 128, 128)))[None]
    like = floating(model, image)
    image = image.to(like.device, like.dtype)
    size = (int(image.shape[-2]), int(image.shape[-1]))
    # Some networks draw random numbers.
    forked = torch.random.fork_rng([image.device] if image.is_cuda else [])
    with evaluating(model), forked:
        trial = Trial(model, _passes(model, layers, image), size)
        if ambiguous := [layer for layer in layers if trial.is_ambiguous(layer)]:
            trial = replace(trial, grown=_grown(model, ambiguous, image))
    return trial


def read_layers(
    target: Target, layers: Sequence[str], summary: Summary, device: str = "cpu"
) -> dict[str, Reading]:
    """Infer how layers' outputs are read, by a trial on the device."""
    find_layers(target.model, layers)
    with on_device(target.model, device):
        trial = try_out(target, layers)
    return {layer: _read_layer(trial, layer, summary, target.saes.get(layer)) for layer in layers}


def _read_layer(trial: Trial, layer: str, summary: Summary, sae: Sae | None) -> Reading:
    if sae is not None:
        return trial.read_latents(layer, summary, sae)
    if summary.kind == COUNT:
        raise DissectError(
            f"summary {COUNT} is the share of tokens on which a sparse autoencoder's latents fire, "
            f"and layer {layer} has none: use mean or max, or set sae.layer (capture.summary)"
        )
    return trial.read(layer, summary)


def units_axis(module: nn.Module) -> str | None:
    """Return `first` or `last` if a module's type fixes the axis of its units, else None."""
    if next(module.children(), None) is not None:
        return None
    kind = kind_of(module)
    is_exported = kind != type(module).__name__
    if isinstance(module, _FIRST) or (is_exported and kind.startswith(_FIRST_NAMES)):
        return "first"
    if kind.removeprefix("Adaptive").startswith(_POOLS) and (
        is_exported or type(module).__module__.startswith("torch.nn.")
    ):
        return "first"
    # A derived class that overrides `forward` may return another layout.
    is_torch_layer = any(type(module).forward is last.forward for last in _LAST)
    if is_torch_layer or (is_exported and kind in {last.__name__ for last in _LAST}):
        return "last" if _normalises_units(module) else None
    return None


def _normalises_units(module: nn.Module) -> bool:
    """Return False for a layer norm over maps `(units, h, w)`, in any axis order."""
    weight = getattr(module, "weight", None)
    shape = () if isinstance(module, nn.Linear) or weight is None else weight.shape
    return len(getattr(module, "normalized_shape", shape)) <= 1


def _is_attention(output: Tensor) -> bool:
    """Return whether rows of square matrices sum to 1; maps may have the same shape."""
    if output.ndim != 4 or output.shape[2] != output.shape[3] or output.shape[3] == 1:
        return False
    if output.is_meta or not output.is_floating_point():
        return False
    return bool((output.float().sum(-1) - 1).abs().amax() < 1e-2)  # bf16 has three digits


def _passes(model: nn.Module, layers: Sequence[str], image: Tensor) -> tuple[Outputs, ...]:
    batches = [image.expand(n, -1, -1, -1).contiguous() for n in BATCHES]
    try:
        return tuple(Outputs().run(model, layers, images) for images in batches)
    except DissectError:
        with suppress(DissectError):
            return (Outputs().run(model, layers, image),)  # a single-image program
        raise


def _grown(model: nn.Module, layers: Sequence[str], image: Tensor) -> dict[str, Shape]:
    """Return the output shapes on images of twice the size, for all layers that ran."""
    outputs = Outputs()
    with suppress(DissectError):  # networks may accept a single input size
        outputs.run(model, layers, image.repeat(BATCHES[0], 1, 2, 2))
    return outputs.shapes


def _images_axis(layer: str, shapes: Sequence[Shape]) -> int:
    """Return the axis that grows with the batch."""
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
