"""The sanity checks of metrics on a target and a probe: parts, tables and figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from clipdissect.app.build import build_groups, parameters, settings_of, store_of
from clipdissect.app.console import console, markdown_table, text_table
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.probe.image_labels import ImageLabels, of_probe
from clipdissect.results.manifest import run_manifest
from clipdissect.scores import checks
from clipdissect.store import Store
from clipdissect.studies.figures import legend_below, plot
from clipdissect.targets import Target
from clipdissect.utils.figures import save_figure

COLUMNS = (
    "metric",
    "kind",
    "layer",
    "gamma",
    "alpha",
    "lam",
    "missing_units",
    "missing",
    "missing_share",
    "extra_units",
    "extra",
    "extra_share",
    "passes",
    "auprc",
)
MARKERS = "osD^vPX*"
CLASSES, LARGEST_IOU = "class", "largest IoU"


@dataclass
class Checks:
    """A target, a probe with labels, and the settings of the checks."""

    target: Target
    probe: Probe
    settings: Settings
    store: Store
    options: dict[str, Any]
    correct: dict[str, str] = field(default_factory=dict)  # how concepts were found, by layer

    @classmethod
    def of(cls, config: Any) -> Checks:
        """Build the parts; raise a DissectError for wrong options before any work."""
        options = parameters(config.checks)
        options["metrics"] = checks.check_names(options["metrics"])
        options["alphas"] = options["alphas"] or list(checks.ALPHAS)
        for name, least in (("seeds", 1), ("images", 10)):
            if options[name] < least:
                raise DissectError(f"checks.{name} is {options[name]}; it must be at least {least}")
        checks.ideal_units(options["gammas"], options["images"])
        built = build_groups(config, ("target", "probe"))
        probe: Probe = built["probe"]
        of_probe(probe, probe.images[:1], options["min_area"])  # an error if it has no labels
        return cls(built["target"], probe, settings_of(config), store_of(config), options)

    def capture(self) -> None:
        """Capture the target's layers, and read the labels of the readable images."""
        layers = self.target.layers
        self.captured: CapturedFeatures = capture(
            self.target, layers, None, self.probe, self.store, self.settings
        )
        self.labels: ImageLabels = of_probe(
            self.probe, self.captured.images, self.options["min_area"]
        )

    def theoretical(self) -> pd.DataFrame:
        names, images = self.options["metrics"], self.options["images"]
        return checks.theoretical(names, self.options["gammas"], images, self.options["seeds"])

    def experimental(self) -> pd.DataFrame:
        """Return one row per layer and metric."""
        names, alphas, seed = (self.options[key] for key in ("metrics", "alphas", "seed"))
        tables = [
            checks.experimental(self._layer(name), names, alphas, seed=seed).assign(layer=name)
            for name in self.target.layers
        ]
        table: pd.DataFrame = pd.concat(tables, ignore_index=True)
        return table

    def _layer(self, name: str) -> checks.Layer:
        activations = self.captured.activations[name]
        if not isinstance(activations, Tensor):
            raise DissectError("the checks need the activations of every image: capture.keep=full")
        has_classes = self.probe.masks is None
        if name == self.target.class_layer and has_classes:
            layer = self._layer_of_classes(activations)
            if bool((layer.correct >= 0).any()):
                self.correct[name] = CLASSES
                return layer
        self.correct[name] = LARGEST_IOU
        return checks.layer_by_iou(activations, self.labels)

    def _layer_of_classes(self, activations: Float[Tensor, "images units"]) -> checks.Layer:
        return checks.layer_of_classes(activations, self.labels, self.target.class_names)

    @staticmethod
    def table(theoretical: pd.DataFrame, experimental: pd.DataFrame) -> pd.DataFrame:
        """Return all rows of both checks."""
        kinds = {"theoretical": theoretical, "experimental": experimental}
        rows = [table.assign(kind=kind) for kind, table in kinds.items()]
        whole: pd.DataFrame = pd.concat(rows, ignore_index=True).reindex(columns=list(COLUMNS))
        return whole

    def manifest(self, seconds: Mapping[str, float]) -> dict[str, Any]:
        captured = self.captured
        return run_manifest(
            self.target,
            self.probe,
            self.settings,
            images_used=len(captured.images),
            skipped=captured.skipped,
            notes=[*self.target.notes, *self.probe.notes, *captured.notes],
            digests=captured.digests,
            computed=captured.computed,
            fits=captured.fits,
            concepts=len(self.labels.names),
            correct_concepts=self.correct,
            checks=self.options,
            seconds=dict(seconds),
        )


def metrics(theoretical: pd.DataFrame, experimental: pd.DataFrame) -> dict[str, Any]:
    """Return verdicts and shares by metric, of ideal units at their worst frequency."""
    ideal = {
        metric: {
            "passes": bool(rows["passes"].all()),
            "missing_share": float(rows["missing_share"].min()),
            "extra_share": float(rows["extra_share"].min()),
        }
        for metric, rows in theoretical.groupby("metric", sort=False)
    }
    layers: dict[str, Any] = {}
    for row in experimental.to_dict("records"):
        shown = {key: row[key] for key in ("passes", "missing_share", "extra_share", "auprc")}
        if math.isnan(shown["auprc"]):
            del shown["auprc"]
        layers.setdefault(row["layer"], {})[row["metric"]] = shown
    return {"theoretical": ideal, "experimental": layers}


def cells(theoretical: pd.DataFrame, experimental: pd.DataFrame) -> tuple[list[str], list[Any]]:
    """Return a header and a row per metric: verdicts with shares in per cent, AUPRC last."""
    values = metrics(theoretical, experimental)
    layers = values["experimental"]
    known = [layer for layer, of in layers.items() if "auprc" in next(iter(of.values()))]
    header = ["metric", "ideal units", *layers, *(f"AUPRC, {layer}" for layer in known)]
    rows = [
        [
            metric,
            _verdict(verdict),
            *(_verdict(of[metric]) for of in layers.values()),
            *(f"{layers[layer][metric]['auprc']:.3f}" for layer in known),
        ]
        for metric, verdict in values["theoretical"].items()
    ]
    return header, rows


def _verdict(values: Mapping[str, Any]) -> str:
    shares = [values["missing_share"], values["extra_share"]]
    text = "/".join("-" if math.isnan(share) else f"{100 * share:.0f}" for share in shares)
    return f"{text} pass" if values["passes"] else text


HEAD = """# Sanity checks of metrics

Per cent of units whose score falls when half of their concept's labels are removed, and when as
many are added: of ideal units at the frequency where fewest do, and of the units of each layer.
A metric passes if both are above 95 %. `-`: no unit's labels could change. AUPRC: of finding each
unit's class among all pairs.

"""


def markdown(theoretical: pd.DataFrame, experimental: pd.DataFrame) -> str:
    return HEAD + markdown_table(*cells(theoretical, experimental))


def show(theoretical: pd.DataFrame, experimental: pd.DataFrame) -> None:
    """Print the verdicts."""
    header, rows = cells(theoretical, experimental)
    columns: dict[str, dict[str, Any]] = {name: {"no_wrap": True} for name in header}
    title = "units whose score falls with labels missing / added, in per cent"
    console().print(text_table(columns, rows, title))


def figure(theoretical: pd.DataFrame, experimental: pd.DataFrame, folder: Path) -> None:
    """Draw the shares of both checks: a row per metric, a marker per layer."""
    values = metrics(theoretical, experimental)
    sides = {"ideal units, worst frequency": values["theoretical"], **values["experimental"]}
    names = list(values["theoretical"])
    drawn, axes = plot(8.4, 0.19 * len(names) + 1.4, columns=2)
    for axis, kind in zip(axes, ("missing", "extra"), strict=True):
        for number, (side, of_metric) in enumerate(sides.items()):
            shares = [of_metric[name][f"{kind}_share"] for name in names]
            style: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "label": side}
            style |= {"color": str(0.15 * (number % 6)), "linestyle": "none", "markersize": 4}
            axis.plot(shares, range(len(names)), **style)
        axis.axvline(checks.REQUIRED_SHARE, color="0.6", linewidth=0.8)
        axis.set(xlim=(-0.03, 1.03), title=f"{kind} labels", xlabel="share of units that fall")
        axis.invert_yaxis()
        axis.grid(axis="y", color="0.93")
    axes[0].set_yticks(range(len(names)), names, fontsize="x-small")
    axes[1].set_yticks(range(len(names)), [])
    legend_below(drawn, axes[0])
    save_figure(drawn, folder, "checks", dpi=110)
