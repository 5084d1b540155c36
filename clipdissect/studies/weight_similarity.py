"""Do units with similar descriptions have large weights between them? (Sec. 5, Fig. 6)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.capture.hooks import find_layers
from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling, interval
from clipdissect.evaluation.vectors import Vectors
from clipdissect.models.layer_patterns import kind_of
from clipdissect.studies import correlation
from clipdissect.studies.correlation import Pairs
from clipdissect.studies.numbers import check_least
from clipdissect.targets import Target


@dataclass(frozen=True, kw_only=True)
class WeightSimilarity:
    """Settings of the study.

    Args:
        layer: whose units are described; by default the last of the target's layers before `into`.
        into: the linear layer that they feed, whose units are classes; by default the target's
            layer of classes.
        top_pairs: the largest weights that a second correlation is over.
        permutations: random shufflings of the descriptions over the input units.
        panels: largest weights in the figure of images; 0 for no such figure.
        panel_images: top images of each unit.

    Raises:
        DissectError: a number out of its range.
    """

    layer: str | None = None
    into: str | None = None
    top_pairs: int = 50_000
    permutations: int = 1000
    panels: int = 6
    panel_images: int = 5
    name: ClassVar[str] = "weight_similarity"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_least(self.name, top_pairs=(self.top_pairs, 3), permutations=(self.permutations, 20),
                    panels=(self.panels, 0), panel_images=(self.panel_images, 1))  # fmt: skip


def linear_weights(model: nn.Module, into: str) -> Float[np.ndarray, "outputs inputs"]:
    """Weights of a linear layer, or of a convolution of one position, `[outputs, inputs]`.

    Raises:
        DissectError: no such layer, or one of another kind.
    """
    module = find_layers(model, [into])[into]
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim not in (2, 4):
        raise DissectError(f"{into} is a {kind_of(module)}; study.into must be a linear layer")
    if weight.ndim == 4 and (weight.shape[2:] != (1, 1) or getattr(module, "groups", 1) > 1):
        raise DissectError(f"{into} looks at several positions; study.into must be a linear layer")
    return weight.detach().float().cpu().reshape(weight.shape[0], -1).numpy()


def feeding_layer(target: Target, into: str, layer: str | None) -> str:
    """The layer whose units feed `into`: the given one, or the target's last other one.

    Raises:
        DissectError: there is none.
    """
    if layer is not None:
        find_layers(target.model, [layer])
        return layer
    others = [name for name in target.layers if name != into]
    if not others:
        raise DissectError(f"which layer feeds {into}? Set study.layer")
    return others[-1]


def check_width(weights: Pairs, units: int, layer: str, into: str) -> None:
    """Raise a DissectError unless a layer has as many units as another has inputs."""
    if weights.shape[1] != units:
        raise DissectError(
            f"{into} takes {weights.shape[1]} inputs, but {layer} has {units} described units: set "
            f"study.layer to the layer that feeds it"
        )


def linearity(
    weights: Pairs, q: Float[np.ndarray, "images inputs"], out: Float[np.ndarray, "images outputs"]
) -> float:
    """How much of the outputs' variance the weights make of the inputs' summaries, at most 1.

    1 where a pooling alone lies between the layers and the summary is that pooling; less where a
    normalisation does, or the summary is another.

    Args:
        weights: `[outputs, inputs]`.
        q: activations of the inputs.
        out: activations of the outputs.
    """
    left = out - q @ weights.T
    left = left - left.mean(0)  # the bias
    whole = out - out.mean(0)
    return float(1 - (left**2).sum() / (whole**2).sum())


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights between described units and classes.

    Args:
        table: `[classes, described units]`.
        units: numbers of the described units.
        labels: their descriptions.
        classes: the classes' names.
    """

    table: Pairs
    units: np.ndarray
    labels: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, weights: Pairs, descriptions: Sequence[str], classes: Sequence[str]) -> Weights:
        """Units without a description are left out.

        Raises:
            DissectError: too few described units; another number of classes than outputs.
        """
        if len(classes) != len(weights):
            raise DissectError(f"{len(weights)} outputs, but {len(classes)} class names")
        kept = np.array([i for i, text in enumerate(descriptions) if text], dtype=int)
        if len(kept) < 3:
            raise DissectError(f"only {len(kept)} units are described")
        labels = tuple(descriptions[i] for i in kept)
        return cls(np.ascontiguousarray(weights[:, kept]), kept, labels, tuple(classes))

    def largest(self, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Places (class, described unit) of the largest weights, largest first."""
        order = np.argsort(-self.table, axis=None, kind="stable")[:count]
        rows, columns = np.divmod(order, self.table.shape[1])
        return rows, columns


def similarities(weights: Weights, vectors: Vectors) -> Float[np.ndarray, "classes units"]:
    """Cosine of each class name and each unit's description, float32."""
    found: Float[np.ndarray, "classes units"] = (
        vectors.of(weights.classes).astype(np.float32)
        @ vectors.of(weights.labels).astype(np.float32).T
    )
    return found


def measured(
    weights: Weights, vectors: Vectors, study: WeightSimilarity, how: Resampling
) -> dict[str, Any]:
    """JSON-able: the correlations, the means of Fig. 6b, the permutation control, and the unit's
    best similarity against its largest weight.

    Args:
        weights: of described units into classes.
        vectors: embeddings of descriptions and class names.
        study: the settings.
        how: the intervals are made.
    """
    near = similarities(weights, vectors)  # the one matrix of pairs beside the weights
    table = weights.table
    at = weights.largest()
    top = min(study.top_pairs, table.size)
    first = at[0][:top], at[1][:top]
    every = correlation.tested(table, near) | {
        "interval": correlation.pearson_interval(table, near, how)
    }
    some = correlation.tested(table[first], near[first]) | {
        "interval": correlation.chosen_interval(table[first], near[first], first, table.shape, how)
    }
    return {
        "all_pairs": every,
        "top_pairs": some,
        "mean_similarity": float(near.mean()),
        "by_top_k": correlation.running_means(near[at], _powers(table.size), at, table.shape, how),
        "permutation": permuted(weights, vectors, study.permutations, how),
        "best_of_unit": correlation.tested(table.max(0), near.max(0)),
    }  # fmt: skip


def permuted(
    weights: Weights, vectors: Vectors, permutations: int, how: Resampling
) -> dict[str, Any]:
    """JSON-able: r over all pairs with the descriptions shuffled over the input units.

    `sum_jk W_jk S_jp(k)` is `sum_k (W.T E)_k . D_p(k)` with E the class names' embeddings and D the
    descriptions', so no matrix of pairs is needed for any shuffling.

    Args:
        weights, vectors: as for `measured`.
        permutations: how many.
        how: seed and confidence.

    Returns:
        `mean_r`, `low`, `high` (of the shuffled r), `p` (share of shufflings with an r of at least
        the real size, the real one counted).
    """
    names, labels = vectors.of(weights.classes), vectors.of(weights.labels)
    pulled = weights.table.T @ names - weights.table.mean(dtype=np.float64) * names.sum(0)
    mean = names.mean(0) @ labels.mean(0)
    spread = ((names.T @ names) * (labels.T @ labels)).sum() - weights.table.size * mean**2
    size = np.sqrt(weights.table.size * float(weights.table.var(dtype=np.float64)) * spread)
    generator = np.random.default_rng(how.seed)
    count = len(labels)
    shuffled = (generator.permutation(count) for _ in range(permutations))
    real, *rest = [
        float((pulled * labels[order]).sum() / size) for order in (np.arange(count), *shuffled)
    ]
    drawn = np.array(rest)
    beyond = int((np.abs(drawn) >= abs(real)).sum())
    return {"permutations": permutations, "mean_r": float(drawn.mean()),
            **interval(drawn, how.confidence), "p": (1 + beyond) / (1 + permutations)}  # fmt: skip


def largest_pairs(
    weights: Weights, cosines: Mapping[str, Vectors], count: int
) -> pd.DataFrame:  # fmt: skip
    """The largest weights: `unit, description, class_unit, class, weight`, and each cosine.

    Args:
        weights: of described units into classes.
        cosines: sentence encoder's name to embeddings.
        count: how many.
    """
    rows, columns = weights.largest(count)
    labels = [weights.labels[i] for i in columns]
    classes = [weights.classes[i] for i in rows]
    table: pd.DataFrame = pd.DataFrame({
        "unit": weights.units[columns], "description": labels, "class_unit": rows,
        "class": classes, "weight": weights.table[rows, columns],
        **{f"{name}_cos": v.cosines(labels, classes) for name, v in cosines.items()},
    })  # fmt: skip
    return table


def _powers(pairs: int) -> np.ndarray:
    """1, 2, 4, ... and all."""
    powers = 2 ** np.arange(int(np.log2(pairs)) + 1)
    return np.unique([*powers, pairs])
