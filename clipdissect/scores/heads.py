"""The linear layer that a network's logits come from, and the layer that feeds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipdissect.capture.hooks import hooked
from clipdissect.capture.networks import evaluating, has_compiled_parts, run_network
from clipdissect.encoder.batches import floating
from clipdissect.errors import DissectError
from clipdissect.images.decode import to_pil
from clipdissect.probe import Probe
from clipdissect.targets import Target

# Largest difference of logits, in standard deviations: bfloat16 activations give under 0.01.
_TOLERANCE = 0.02
_NETWORK = "the network"  # no module is named so


@dataclass(frozen=True)
class LinearHead:
    """A linear layer from units to logits: `activations @ weight.T + bias`."""

    weight: Float[Tensor, "classes units"]
    bias: Float[Tensor, " classes"]
    name: str = "head"

    def logits(self, activations: Float[Tensor, "images units"]) -> Float[Tensor, "images classes"]:
        """Return logits in float64."""
        return activations.double() @ self.weight.double().T + self.bias.double()


def network_inputs(
    target: Target, probe: Probe, images: Sequence[str]
) -> Float[Tensor, "images channels h w"]:
    """Return a probe's images, by name, as the target takes them."""
    pictures = (to_pil(probe.read(number)) for number in probe.numbers(images))
    return torch.stack([target.preprocess(picture) for picture in pictures])


@torch.no_grad()
def head_of(
    target: Target,
    layer: str,
    inputs: Float[Tensor, "images channels h w"],
    activations: Float[Tensor, "images units"],
) -> LinearHead:
    """Return the linear layer of the network's logits, which must read exactly a layer's units.

    Args:
        inputs: a few images as the network takes them; see `network_inputs`.
        activations: of the layer on these images, summarised as for the labels.

    Raises:
        DissectError: the logits come from no linear layer, or it reads anything else.
    """
    outputs = _linear_outputs(target.model, inputs)
    logits = outputs.pop(_NETWORK)
    same = [name for name, output in outputs.items() if _equal(output, logits)]
    if not same:
        raise DissectError(f"the output of {target.name} isn't that of a linear layer (nn.Linear)")
    name = same[-1]
    linear: Any = target.model.get_submodule(name)
    bias = torch.zeros(len(linear.weight)) if linear.bias is None else linear.bias.detach().cpu()
    head = LinearHead(linear.weight.detach().cpu(), bias, name)
    _check_reads(head, layer, activations, logits)
    return head


def _linear_outputs(
    model: nn.Module, inputs: Float[Tensor, "images channels h w"]
) -> dict[str, Any]:
    """Run a network; return the outputs of its linear layers, and its own as `_NETWORK`."""
    outputs: dict[str, Any] = {}

    def record(name: str, module: nn.Module, given: Any, output: Any) -> None:
        outputs[name] = output

    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    modules = {**linear, _NETWORK: model}
    reference = floating(model, inputs)
    images = inputs.to(reference.device, reference.dtype)
    with evaluating(model), hooked((m, partial(record, name)) for name, m in modules.items()):
        run_network(model, images, has_compiled_parts(model))
    output = outputs[_NETWORK]
    if isinstance(output, Mapping):  # of transformers
        outputs[_NETWORK] = output.get("logits")
    return outputs


def _equal(output: Any, logits: Any) -> bool:
    both = isinstance(output, Tensor) and isinstance(logits, Tensor)
    return both and output.ndim == 2 and torch.equal(output, logits)


def _check_reads(
    head: LinearHead,
    layer: str,
    activations: Float[Tensor, "images units"],
    logits: Float[Tensor, "images classes"],
) -> None:
    advice = (
        f"choose the layer just before {head.name}, with a summary that the network itself uses "
        f"(mean for maps, the class token for most transformers)"
    )
    units = head.weight.shape[1]
    if activations.shape[1] != units:
        raise DissectError(
            f"layer {layer} has {activations.shape[1]} units, but {head.name} reads {units}; "
            f"{advice}"
        )
    expected = logits.cpu().double()
    difference = float((head.logits(activations.cpu()) - expected).abs().max())
    spread = float(expected.std())
    if not difference <= _TOLERANCE * spread:
        raise DissectError(
            f"{head.name} doesn't read the activations of layer {layer} (with them the logits "
            f"differ by up to {difference:.3g}; their standard deviation is {spread:.3g}); {advice}"
        )


def true_classes(
    labels: Sequence[str | None] | None, class_names: Sequence[str]
) -> tuple[Int[Tensor, " images"] | None, str]:
    """Return each image's class number, and the ground truth of losses in words.

    None, for the network's own prediction, unless every label is the name of a class.
    """
    own = "the network's own prediction"
    if labels is None or not class_names:
        lacking = "the probe has no class labels" if class_names else "no class names are known"
        return None, f"{own}: {lacking}"
    numbers = {name: number for number, name in enumerate(class_names)}
    wrong = [label for label in labels if label not in numbers]
    if wrong:
        few = f"{len(wrong)} of {len(labels)} images have no label or another one"
        return None, f"{own}: {few} than the network's classes (such as {wrong[0]})"
    return torch.tensor([numbers[str(label)] for label in labels]), "the probe's class labels"
