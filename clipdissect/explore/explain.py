"""Explain a prediction by the units that an image activates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from clipdissect.capture.activations import Activations, dead_units, top_of
from clipdissect.capture.features import CapturedFeatures
from clipdissect.datasets.class_names import is_a_name
from clipdissect.errors import DissectError, unknown
from clipdissect.explore.activations import activations_of, as_probe, inputs_of, layers_of
from clipdissect.explore.clear import are_clear
from clipdissect.explore.explanation_page import as_html
from clipdissect.explore.unusual import unusual
from clipdissect.images.decode import to_pil
from clipdissect.probe import Probe
from clipdissect.scores.heads import LinearHead, head_of, network_inputs
from clipdissect.targets import Target

if TYPE_CHECKING:
    from clipdissect.explore.result import Result

HEAD_IMAGES = 4  # that tell which linear layer reads a layer


@dataclass(frozen=True)
class ClassLogit:
    """A class's logit of an image, as a linear layer computes it from a layer's units.

    The layer's contributions add up to `logit - mean`, where `mean` is over the run's images.
    """

    name: str
    number: int
    logit: float
    mean: float
    is_predicted: bool


@dataclass(frozen=True)
class Explanation:
    """The units of a run's layers on an image.

    Args:
        image: its name.
        picture: 8-bit RGB.
        units: `layer, unit, description, clear, activation, share_below, excess`: the most unusual
            units of each layer first, see `unusual`; `clear` tells which descriptions are above
            their null.
        contributions: `layer, unit, description, clear, activation, mean, weight, contribution`,
            largest first; of layers whose units a linear layer turns into the logits.
        logits: of those layers, the explained class.
        prediction: the most probable class and its probability; None if the classes' layer isn't
            known.
        images: of the run's images, those that activations are compared with.
        notes: on layers without contributions, and on units that never vary on the run's images.
        result: what was explained.
    """

    image: str
    picture: Image.Image
    units: pd.DataFrame
    contributions: pd.DataFrame
    logits: dict[str, ClassLogit]
    prediction: tuple[str, float] | None
    images: int
    notes: tuple[str, ...]
    result: Result = field(repr=False)

    def __repr__(self) -> str:
        return f"<Explanation: {len(self.units)} units on {self.image}>"

    def _repr_html_(self) -> str:
        return as_html(self)


def explain(
    result: Result,
    image: str | Path | Image.Image,
    layer: str | None = None,
    top: int = 10,
    class_name: str | int | None = None,
) -> Explanation:
    """Return the units that an image activates most unusually, and what they add to the class.

    If the image is one of the run's, activations are compared with those of the others.

    Args:
        image: a picture, a file, or the name of one of the run's images.
        layer: one of the result's; all by default.
        top: units per layer, in each table.
        class_name: whose logit the contributions are to, by name or number; the layer's own
            prediction by default.

    Raises:
        DissectError: the result knows no network or images, the network has changed since, no such
            layer, class or image, or an unreadable image.
    """
    if top < 1:
        raise DissectError(f"top must be at least 1; got {top}")
    target, probe, _ = inputs_of(result)
    layers = layers_of(result, layer)
    number = None if class_name is None else _class_number(class_name, target.class_names)
    photo, own = as_probe(image, probe)
    classes = [target.class_layer] if target.class_layer else []
    on_photo = activations_of(result, list(dict.fromkeys([*layers, *classes])), photo, keep="full")
    on_probe = activations_of(result, layers, probe)
    rows = _rows_without(on_probe, probe, own)
    example = _Example(target, photo, probe, on_photo, on_probe)
    notes = [*(photo.notes if own is None else ()), *_changed_images(result, on_probe)]
    units = []
    for name in layers:
        a, q = example.activations(name), on_probe.activations[name]
        units.append(_described(result, name, unusual(a, q, rows)).head(top))
        notes += _dead_notes(name, a, q)
    logits, tables, lacking = _logits(example, layers, number)
    contributions = [_described(result, name, table).head(top) for name, table in tables.items()]
    return Explanation(
        photo.images[0],
        to_pil(photo.read(0)),
        pd.concat(units, ignore_index=True),
        pd.concat(contributions, ignore_index=True) if contributions else pd.DataFrame(),
        logits,
        _prediction(on_photo, target),
        len(rows),
        (*notes, *_lacking_notes(lacking)),
        result,
    )


@dataclass(frozen=True)
class _Example:
    """The photo next to the run's images."""

    target: Target
    photo: Probe
    probe: Probe
    on_photo: CapturedFeatures
    on_probe: CapturedFeatures

    def activations(self, layer: str) -> Float[Tensor, " units"]:
        q = self.on_photo.activations[layer]
        assert isinstance(q, Tensor)  # captured in full
        return q[0]

    def head(self, layer: str) -> LinearHead:
        """Return the linear layer that turns the layer's units into logits; see `head_of`."""
        q = self.on_probe.activations[layer]
        if layer == self.target.class_layer:
            raise DissectError("its units are the logits themselves")
        if not isinstance(q, Tensor):
            raise DissectError(
                "only the activations of its units' top images are stored: set capture.keep=full"
            )
        if layer in self.target.saes:
            raise DissectError("its units are latents, which the network itself doesn't read")
        few = list(self.on_probe.images[: HEAD_IMAGES - 1])
        inputs = [
            network_inputs(self.target, self.photo, self.photo.images),
            network_inputs(self.target, self.probe, few),
        ]
        activations = torch.cat([self.activations(layer)[None], q[: len(few)]])
        return head_of(self.target, layer, torch.cat(inputs), activations)


def _changed_images(result: Result, features: CapturedFeatures) -> list[str]:
    known = result.run.get("digests", {}).get("images", features.digests["images"])
    if known == features.digests["images"]:
        return []
    return ["the run's images have changed since: activations are compared with those of now"]


def _rows_without(features: CapturedFeatures, probe: Probe, number: int | None) -> list[int]:
    """Return the rows of features but that of one of the probe's images."""
    name = None if number is None else probe.images[number]
    return [row for row, image in enumerate(features.images) if image != name]


def _logits(
    example: _Example, layers: Sequence[str], number: int | None
) -> tuple[dict[str, ClassLogit], dict[str, pd.DataFrame], dict[str, str]]:
    """Return each layer's class logit and contributions, and why other layers have none."""
    logits, tables, lacking = {}, {}, {}
    for layer in layers:
        a, q = example.activations(layer), example.on_probe.activations[layer]
        try:
            head = example.head(layer)
        except DissectError as error:
            lacking[layer] = str(error)
            continue
        of_class = _contributions(head, a, q, number, example.target.class_names)
        logits[layer], tables[layer] = of_class
    return logits, tables, lacking


def _lacking_notes(reasons: Mapping[str, str]) -> list[str]:
    """Say why layers have no contributions; of several, only which these are."""
    if len(reasons) > 1:
        return [
            f"no contributions of layers {', '.join(reasons)}, as the linear layer of the logits "
            "doesn't read them (the explanation of one layer says why)"
        ]
    return [f"no contributions of layer {layer}: {reason}" for layer, reason in reasons.items()]


def _contributions(
    head: LinearHead,
    activations: Float[Tensor, " units"],
    probe: Activations,
    number: int | None,
    class_names: Sequence[str],
) -> tuple[ClassLogit, pd.DataFrame]:
    """Return a class's logit, and its contributions, largest first.

    A unit's contribution is `weight * (activation - mean over the probe)`: how much it moves the
    logit from its mean.
    """
    assert isinstance(probe, Tensor)
    a, mean = activations.double(), probe.double().mean(0)
    logits, means = head.logits(torch.stack([a, mean]))
    predicted = int(logits.argmax())
    chosen = predicted if number is None else number
    if not 0 <= chosen < len(logits):
        raise DissectError(f"class {chosen} isn't one of the {len(logits)} outputs of {head.name}")
    weight = head.weight[chosen].double()
    table = pd.DataFrame(
        {
            "unit": np.arange(len(a)),
            "activation": a.numpy(),
            "mean": mean.numpy(),
            "weight": weight.numpy(),
            "contribution": (weight * (a - mean)).numpy(),
        }
    )
    name = class_names[chosen] if chosen < len(class_names) else f"class {chosen}"
    of_class = float(logits[chosen]), float(means[chosen])
    logit = ClassLogit(name, chosen, *of_class, predicted == chosen)
    return logit, table.sort_values("contribution", ascending=False, kind="stable")


def _described(result: Result, layer: str, table: pd.DataFrame) -> pd.DataFrame:
    """Put the layer, the descriptions and whether they are clear in a table of units."""
    rows = result.descriptions[result.descriptions["layer"] == layer]
    known = rows[["unit", "description"]].assign(clear=are_clear(rows))
    merged = table.merge(known, on="unit", how="left")
    merged["description"] = merged["description"].fillna("")
    merged["clear"] = merged["clear"].eq(True)  # units without a description have no row
    merged.insert(0, "layer", layer)
    first = ["layer", "unit", "description", "clear"]
    table = merged[[*first, *(name for name in merged if name not in first)]]
    return table


def _dead_notes(layer: str, activations: Float[Tensor, " units"], probe: Activations) -> list[str]:
    """Note units that never vary on the probe but are above that on the image."""
    dead = dead_units(probe).cpu()
    constant = top_of(probe, 1).values[0].cpu()
    units = (dead & (activations > constant)).nonzero()[:, 0].tolist()
    if not units:
        return []
    few = ", ".join(map(str, units[:5])) + (", ..." if len(units) > 5 else "")
    return [
        f"layer {layer}: {len(units)} units ({few}) never vary on the run's images, but are more "
        "active on this one"
    ]


def _prediction(features: CapturedFeatures, target: Target) -> tuple[str, float] | None:
    if target.class_layer is None:
        return None
    logits = features.activations[target.class_layer]
    assert isinstance(logits, Tensor)
    probabilities = logits[0].double().softmax(0)
    number = int(probabilities.argmax())
    names = target.class_names
    name = names[number] if number < len(names) else f"class {number}"
    return name, float(probabilities[number])


def _class_number(name: str | int, class_names: Sequence[str]) -> int:
    """Return a class's number by its number, its name or one of its names."""
    if name in class_names:  # which may be a numeral
        return class_names.index(str(name))
    if isinstance(name, int) or name.isdecimal():
        return int(name)
    labels = [name] * len(class_names)
    found = [n for n, is_name in enumerate(is_a_name(labels, class_names)) if is_name]
    if len(found) == 1:
        return found[0]
    if found:
        few = ", ".join(f"{n} ({class_names[n]})" for n in found)
        raise DissectError(f"{len(found)} classes are named '{name}': give the number: {few}")
    raise unknown("class", name, class_names, most=12)
