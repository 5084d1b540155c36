"""Sanity checks of metrics: does a score fall when labels are missing, or when there are too many?

Source: Oikarinen, Yan & Weng, "Evaluating Neuron Explanations" (NeuronEval), ICML 2025, Sec. 4 and
5. Similarity functions are checked as metrics too, with concept activations P = c; their names are
`similarity.NAME`. Their scores depend on the whole concept set, so *all* concepts are corrupted at
once, which is what missing labels of a probe are; for the other metrics it makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from clipdissect import similarity
from clipdissect.errors import DissectError, unknown
from clipdissect.probe.image_labels import ImageLabels
from clipdissect.scores.label_metrics import ALPHA, METRICS, label_metrics
from clipdissect.scores.statistics import active_count
from clipdissect.similarity import Similarity

EPSILON = 0.001  # smallest decrease that counts, as a share of the metric's range
# As many units must show a decrease. The paper prints shares without a threshold; 95 % leaves room
# for chance in a few units and for no failure at a whole frequency or layer.
REQUIRED_SHARE = 0.95
GAMMAS = (0.499, 0.1, 0.01, 0.001, 0.0001)
ALPHAS = tuple(float(f"{digit}e{power}") for power in (-4, -3, -2, -1) for digit in (1, 2, 5))
LAMS = tuple(step / 100 for step in range(101))
VALIDATION_SHARE = 0.05  # of units, to choose alpha and lam on
DROPS = ("missing", "missing_share", "extra", "extra_share", "passes")  # columns of tables
IMAGES_PER_TOP = 50  # top_k is at most a 50th of the images: 20 of 1000, as in profile=offline

PREFIX = "similarity."
NAMES = (*METRICS, *(f"{PREFIX}{name}" for name in similarity.OPTIONS))
_SIGNED = ("cosine", "cosine_cubed")  # similarity functions from -1 to 1; the others are unbounded

SAMPLED = "_top_random"  # the end of the names of metrics that draw images

Concepts = Shaped[Tensor, "images concepts"]
Matrices = dict[str, Float[Tensor, "units concepts"]]


class Setting(NamedTuple):
    """Parameters of label metrics; see `label_metrics`."""

    alpha: float = ALPHA
    lam: float = 1.0


def missing_labels(concepts: Concepts, generator: torch.Generator) -> Concepts:
    """Return the concepts with each entry set to 0 with probability 1/2."""
    kept = torch.rand(concepts.shape, generator=generator) > 0.5
    return concepts & kept if concepts.dtype == torch.bool else concepts * kept


def extra_labels(concepts: Concepts, generator: torch.Generator) -> Concepts:
    """Return the concepts with as much added, in expectation, as they have."""
    sums = concepts.sum(0, dtype=torch.float64)
    probability = (sums / (len(concepts) - sums)).float()
    added = torch.rand(concepts.shape, generator=generator) < probability
    return concepts | added if concepts.dtype == torch.bool else (concepts + added).clamp(max=1)


CORRUPTIONS: dict[str, Callable[[Concepts, torch.Generator], Concepts]] = {
    "missing": missing_labels,
    "extra": extra_labels,
}


def check_names(names: Sequence[str] | None) -> list[str]:
    """Return the metrics to check, all by default; raise a DissectError for an unknown one."""
    for name in names or ():
        if name not in NAMES:
            raise unknown("metric", name, NAMES)
    return list(dict.fromkeys(names or NAMES))


def scores(
    names: Sequence[str],
    activations: Float[Tensor, "images units"],
    concepts: Concepts,
    settings: Mapping[str, Setting],
    seed: int = 0,
) -> Matrices:
    """Return the metrics and similarities of all units and concepts; see `label_metrics`."""
    result: Matrices = {}
    chosen = [name for name in names if not name.startswith(PREFIX)]
    for setting in dict.fromkeys(settings[name] for name in chosen):
        group = [name for name in chosen if settings[name] == setting]
        result |= label_metrics(activations, concepts, group, setting.alpha, setting.lam, seed)
    for name in set(names) - set(chosen):
        function = suited(name.removeprefix(PREFIX), len(activations))
        result[name] = function(concepts.float(), activations.float())
    return {name: result[name] for name in names}


def suited(name: str, images: int) -> Similarity:
    """Return a similarity function with a `top_k` that suits the number of images."""
    top_k = similarity.build(name).images_per_unit
    if top_k is None:
        return similarity.build(name)
    return similarity.build(name, top_k=min(top_k, max(1, images // IMAGES_PER_TOP)))


def bounds_of(name: str) -> tuple[float, float] | None:
    """Return the range of a metric; None if it is unbounded."""
    if name in METRICS:
        return METRICS[name].bounds
    return (-1.0, 1.0) if name.removeprefix(PREFIX) in _SIGNED else None


def theoretical(
    names: Sequence[str] | None = None,
    gammas: Sequence[float] = GAMMAS,
    images: int = 500_000,
    seeds: int = 100,
) -> pd.DataFrame:
    """Check metrics on ideal units, which are active exactly where their concept is present.

    As published, the unit of frequency gamma is active on the first `gamma * images` images, and
    unbounded metrics are divided by the range over all pairs of these units and concepts. For
    similarity functions, images are shuffled per unit, because a softmax over nested concepts
    would tell little.

    Returns:
        Per metric and gamma: mean normalised drops `missing, extra`, shares of seeds with a
        decrease `missing_share, extra_share`, and `passes`.
    """
    chosen = check_names(names)
    ideal = ideal_units(gammas, images)
    parts = (
        ([name for name in chosen if name in METRICS], ideal),
        ([name for name in chosen if name not in METRICS], _shuffled(ideal)),
    )
    tables = [
        _theoretical(part, concepts, seeds).assign(gamma=list(gammas) * len(part))
        for part, concepts in parts
        if part
    ]
    columns = ["metric", "gamma", *DROPS]
    table: pd.DataFrame = pd.concat(tables, ignore_index=True).reindex(columns=columns)
    return table


def ideal_units(gammas: Sequence[float], images: int) -> Bool[Tensor, "images gammas"]:
    """Return nested concepts: the first `gamma * images` images each."""
    counts = torch.tensor([round(gamma * images) for gamma in gammas])
    if not gammas or int(counts.min()) < 1 or int(counts.max()) >= images / 2:
        raise DissectError(
            f"gammas are {list(gammas)} of {images} images: each must give at least one image, "
            "and be below 0.5, so that labels can be added"
        )
    return torch.arange(images)[:, None] < counts


def _shuffled(concepts: Bool[Tensor, "images concepts"]) -> Bool[Tensor, "images concepts"]:
    generator = torch.Generator().manual_seed(0)
    order = [torch.randperm(len(concepts), generator=generator) for _ in concepts.T]
    return torch.stack([c[i] for c, i in zip(concepts.T, order, strict=True)], dim=1)


def _theoretical(
    names: Sequence[str], concepts: Bool[Tensor, "images concepts"], seeds: int
) -> pd.DataFrame:
    # With alpha of one image, a unit is active where it has its largest value.
    settings = dict.fromkeys(names, Setting(alpha=1 / len(concepts)))
    activations = concepts.float()
    sampled = [name for name in names if name.endswith(SAMPLED)]
    once = scores(names, activations, concepts, settings)
    before: list[Matrices] = []
    after: dict[str, list[Matrices]] = {"missing": [], "extra": []}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        before.append(once | scores(sampled, activations, concepts, settings, seed))
        for kind, corrupt in CORRUPTIONS.items():
            corrupted = corrupt(concepts, generator)
            after[kind].append(scores(names, activations, corrupted, settings, seed))
    correct = torch.arange(concepts.shape[1])
    rows = []
    for name in names:
        largest = value_range(name, [*before, *after["missing"], *after["extra"]])
        drops = {
            kind: normalised_drops(name, before, matrices, correct, largest)
            for kind, matrices in after.items()
        }
        rows += [
            {"metric": name, **summary({kind: drop[:, k] for kind, drop in drops.items()})}
            for k in correct.tolist()
        ]
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def value_range(name: str, matrices: Sequence[Matrices]) -> float:
    """Return the largest difference of a metric's values; of those seen if it is unbounded."""
    if bounds := bounds_of(name):
        return bounds[1] - bounds[0]
    values = torch.cat([matrix[name].flatten() for matrix in matrices])
    values = values[torch.isfinite(values)]
    return float(values.max() - values.min()) if len(values) else math.nan


def normalised_drops(
    name: str,
    before: Sequence[Matrices],
    after: Sequence[Matrices],
    correct: Int[Tensor, " units"],
    largest: float,
) -> Float[np.ndarray, "draws units"]:
    """Return the change of each unit's score with its correct concept; negative is a decrease."""
    units = torch.arange(len(correct))
    changes = [
        matrices[name][units, correct] - unchanged[name][units, correct]
        for unchanged, matrices in zip(before, after, strict=True)
    ]
    drops: Tensor = torch.stack(changes).double() / largest  # 0 / 0 is undefined
    return drops.numpy()


def summary(drops: Mapping[str, Float[np.ndarray, " drops"]]) -> dict[str, Any]:
    """Return the mean drops, the shares that are decreases, and whether both shares suffice.

    An undefined change is no decrease. Without any changed labels nothing is defined, and
    `passes` is None.
    """
    row: dict[str, Any] = {}
    for kind, values in drops.items():
        known = values[np.isfinite(values)]
        row[kind] = float(known.mean()) if len(known) else math.nan
        row[f"{kind}_share"] = float((values < -EPSILON).mean()) if len(values) else math.nan
    shares = [row[f"{kind}_share"] for kind in drops]
    row["passes"] = None if any(map(math.isnan, shares)) else min(shares) > REQUIRED_SHARE
    return row


@dataclass(frozen=True)
class Layer:
    """A layer's activations, the images' concepts, and each unit's correct concept (-1: none)."""

    activations: Float[Tensor, "images units"]
    concepts: Concepts
    correct: Int[Tensor, " units"]
    has_classes: bool = False  # its correct concepts are known, not chosen by IoU

    def take(self, units: Int[np.ndarray, " some"]) -> Layer:
        return Layer(
            self.activations[:, units], self.concepts, self.correct[units], self.has_classes
        )


def layer_of_classes(
    activations: Float[Tensor, "images units"], labels: ImageLabels, names: Sequence[str]
) -> Layer:
    """Return a layer whose units are classes; those without a label are left out."""
    columns = [labels.column_of(name) for name in names]
    correct = torch.tensor([-1 if column is None else column for column in columns])
    return Layer(activations, labels.matrix, correct, has_classes=True)


def layer_by_iou(activations: Float[Tensor, "images units"], labels: ImageLabels) -> Layer:
    """Return a layer whose correct concepts have the largest IoU; dead units have none."""
    iou = label_metrics(activations, labels.matrix, ["iou"])["iou"]
    best, correct = iou.nan_to_num(0.0).max(1)
    varies = activations.amax(0) > activations.amin(0)
    return Layer(activations, labels.matrix, torch.where((best > 0) & varies, correct, -1))


def experimental(
    layer: Layer,
    names: Sequence[str] | None = None,
    alphas: Sequence[float] = ALPHAS,
    lams: Sequence[float] = LAMS,
    seed: int = 0,
) -> pd.DataFrame:
    """Check metrics on the units of a network, with the concepts that are correct for them.

    `alpha` and `lam` are chosen on 5 % of the units, by the AUPRC of the correct pairs among all;
    the others are reported. Not counted are units whose correct concept lost or gained no label, or
    is on no image or on all: with few images per concept, that is chance.

    Returns:
        Per metric: `alpha, lam`, counted units, drops and shares as `theoretical` has, and the
        AUPRC of units with classes (Sec. 5).
    """
    chosen = check_names(names)
    validation, test = split_units(layer, seed)
    settings = tuned(layer.take(validation), chosen, alphas, lams)
    rest = layer.take(test)
    generator = torch.Generator().manual_seed(seed)
    base = scores(chosen, rest.activations, rest.concepts, settings)
    corrupted, counted = {}, {}
    for kind, corrupt in CORRUPTIONS.items():
        concepts = corrupt(rest.concepts, generator)
        counted[kind] = _can_change(rest.concepts, concepts)[rest.correct].numpy()
        corrupted[kind] = scores(chosen, rest.activations, concepts, settings)
    rows = []
    for name in chosen:
        largest = value_range(name, [base, *corrupted.values()])
        drops = {
            kind: normalised_drops(name, [base], [matrices], rest.correct, largest)[0]
            for kind, matrices in corrupted.items()
        }
        counted_drops = {kind: drop[counted[kind]] for kind, drop in drops.items()}
        units = {f"{kind}_units": len(drop) for kind, drop in counted_drops.items()}
        known = {"auprc": _known_auprc(base[name], rest)}
        parameters = _parameters(name, settings[name])
        rows.append({"metric": name, **parameters, **units, **summary(counted_drops), **known})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _known_auprc(values: Float[Tensor, "units concepts"], layer: Layer) -> float:
    """Return the AUPRC of the classes; NaN for other layers, whose concepts a metric has chosen."""
    return (
        float(correct_pairs_auprc(values[None], layer.correct)) if layer.has_classes else math.nan
    )


def _can_change(concepts: Concepts, corrupted: Concepts) -> Bool[Tensor, " concepts"]:
    """Return which concepts are different now, and neither on no image nor on all."""
    changed = (concepts != corrupted).any(0)
    return changed & (corrupted.amax(0) > corrupted.amin(0))


def _parameters(name: str, setting: Setting) -> dict[str, float]:
    uses_alpha = name in METRICS and METRICS[name].uses_alpha
    return {
        "alpha": setting.alpha if uses_alpha else math.nan,
        "lam": setting.lam if name == "wpmi" else math.nan,
    }


def split_units(layer: Layer, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the units with a correct concept: 5 % (at least one) to validate on, and the rest."""
    units = np.flatnonzero(layer.correct.numpy() >= 0)
    if len(units) < 2:
        raise DissectError(
            f"{len(units)} units of the layer have a correct concept; the checks need 2: use a "
            "probe that shows more of the layer's concepts"
        )
    shuffled = np.random.default_rng(seed).permutation(units)
    count = max(1, round(VALIDATION_SHARE * len(units)))
    return np.sort(shuffled[:count]), np.sort(shuffled[count:])


def tuned(
    layer: Layer, names: Sequence[str], alphas: Sequence[float], lams: Sequence[float]
) -> dict[str, Setting]:
    """Return each metric's setting with the largest AUPRC of correct pairs.

    The middle of equally good ones: few validation units are often told apart by any alpha.
    """
    tried: dict[str, list[tuple[float, Setting]]] = {name: [] for name in names}
    searched = [name for name in names if name in METRICS and METRICS[name].uses_alpha]
    images = len(layer.activations)
    # The smallest alpha for each number of active images.
    distinct = {active_count(alpha, images): alpha for alpha in sorted(alphas, reverse=True)}
    for alpha in sorted(distinct.values()) if searched else ():
        options = dict.fromkeys(searched, Setting(alpha, 1.0))
        matrices = scores(searched, layer.activations, layer.concepts, options)
        for name, matrix in matrices.items():
            lams_tried = lams if name == "wpmi" else (1.0,)
            stack = _with_lams(layer, alpha, matrix, lams) if name == "wpmi" else matrix[None]
            found = correct_pairs_auprc(stack, layer.correct).tolist()
            tried[name] += zip(found, (Setting(alpha, lam) for lam in lams_tried), strict=True)
    return {name: _middle_of_best(settings) for name, settings in tried.items()}


def _middle_of_best(tried: Sequence[tuple[float, Setting]]) -> Setting:
    largest = max((auprc for auprc, _ in tried), default=0.0)
    best = [setting for auprc, setting in tried if auprc == largest]
    return best[len(best) // 2] if best else Setting()


def _with_lams(
    layer: Layer, alpha: float, wpmi: Float[Tensor, "units concepts"], lams: Sequence[float]
) -> Float[Tensor, "lams units concepts"]:
    """Return WPMI for each `lam`, in which it is linear; `wpmi` is of 1."""
    without = label_metrics(layer.activations, layer.concepts, ["wpmi"], alpha, lam=0.0)["wpmi"]
    return without + torch.tensor(lams)[:, None, None] * (wpmi - without)


def correct_pairs_auprc(
    values: Float[Tensor, "sets units concepts"], correct: Int[Tensor, " units"]
) -> Float[Tensor, " sets"]:
    """Return the AUPRC of finding correct pairs among all; undefined scores come last."""
    truth = torch.zeros(values.shape[1:], dtype=torch.bool)
    truth[torch.arange(len(correct)), correct] = True
    known = values[torch.isfinite(values)]
    lowest = float(known.min()) - 1 if len(known) else 0.0
    filled = torch.where(torch.isfinite(values), values, lowest)
    columns = filled.flatten(1).T, truth.reshape(-1, 1)
    return label_metrics(*columns, ["inverse_auprc"])["inverse_auprc"][:, 0]
