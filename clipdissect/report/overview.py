"""Overview of a run: settings, warnings, notes, and statistics of each layer's labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from clipdissect.evaluation.layers import is_of_latents, null_metrics
from clipdissect.models.layer_patterns import LATENTS
from clipdissect.report.run import Run
from clipdissect.report.scores import Mean, means
from clipdissect.results.describe import NULL
from clipdissect.results.flags import DEAD, FEW, RARE, SATURATED, TIED, has_flag

BINS = 30
FREQUENT = 10
# Relative to the layer's median margin: the scale of scores differs between functions.
LOW_MARGIN = 0.1
HIDDEN = ("name", "memory_gb")  # `memory_gb` changes no result
_SLASH = r"[/\\]+"
_BEFORE = r"(?<![\w./\\])(?!(?<=:)//)"  # not inside `a/b`, nor at the slashes of `https://`
_NAME = r"[^\s/\\'\",;]"
_USER = rf"(?:home|Users){_SLASH}[^/\\'\",;\n]+{_SLASH}"  # user names may have spaces
# Unix, Windows (`C:\x\y`), a share (`\\server\x`), `file://`, or below a shortened folder.
_ABSOLUTE = re.compile(
    rf"{_BEFORE}(?:(?:file:{_SLASH})?[A-Za-z]:|file:|~(?:[A-Za-z][\w.-]*)?|…)?{_SLASH}"
    rf"(?:{_USER}|{_NAME}+{_SLASH})(?:{_NAME}+{_SLASH})*({_NAME}*)"
)
_STARTS_AS_PATH = re.compile(r"file:/|~|[A-Za-z]:[/\\]|[/\\]")
_ROOT = re.compile(r"(?:~|[A-Za-z]:)?")


@dataclass(frozen=True)
class Histogram:
    """Counts in equal bins of a range."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LatentsOverview:
    """Statistics of a layer's latents; None: unknown.

    `alive` latents fire on any image; the rare ones among them, on fewer than a score uses.
    `density` is the median over alive latents, `l0` the mean number that fire on a token.
    """

    alive: int
    rare: int
    density: float | None
    explained_variance: float | None
    l0: float | None


@dataclass(frozen=True)
class LayerOverview:
    """Statistics of a layer; counts are of units unless stated otherwise.

    `different` and `among_runners_up` count distinct texts, without and with runners-up;
    `near` counts any synonym of the class name. `null_95`: see `evaluation.layers.null_metrics`.
    `means` are of the units' scores.
    """

    name: str
    units: int
    dead: int
    tied: int
    few: int
    saturated: int
    low_margin: int
    different: int
    among_runners_up: int
    concepts: int | None
    frequent: dict[str, int]
    scores: Histogram | None
    right: int | None = None
    near: int | None = None
    top5: int | None = None
    classes_in_concepts: int | None = None
    null_95: float | None = None
    above_null: float | None = None
    latents: LatentsOverview | None = None
    means: tuple[Mean, ...] = ()

    @property
    def coverage(self) -> float | None:
        """Share of the concept set that describes at least one unit."""
        return self.different / self.concepts if self.concepts else None


def overview(run: Run) -> list[LayerOverview]:
    return [_layer(run, layer) for layer in run.layers]


def low_margins(rows: pd.DataFrame) -> Bool[np.ndarray, " units"]:
    """Return which units have at most a tenth of the median margin of the layer's live units."""
    margins = rows["margin"].to_numpy(float)
    if np.isnan(margins).all():
        return np.zeros(len(rows), dtype=bool)
    return np.asarray(margins <= LOW_MARGIN * float(np.nanmedian(margins)))


def histogram_of(values: pd.Series) -> Histogram | None:
    """Return the histogram of the finite values; None if there are none."""
    finite = values.to_numpy(float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    counts, edges = np.histogram(finite, BINS)
    return Histogram(float(edges[0]), float(edges[-1]), tuple(counts.tolist()))


def _layer(run: Run, name: str) -> LayerOverview:
    rows = run.rows(name)
    not_dead = rows[~has_flag(rows, DEAD)]
    described = not_dead[not_dead["description"] != ""]
    null = null_metrics(not_dead) if NULL in rows else {}
    texts = {text for column, _ in run.columns for text in described[column] if text}
    frequent = described["description"].value_counts()[:FREQUENT]
    truth = run.ground_truth(name)
    final = run.metrics.get("final_layer", {})
    final = final if final.get("layer") == name else {}
    top5 = final.get("top5")
    return LayerOverview(
        name=name,
        units=len(rows),
        dead=int(has_flag(rows, DEAD).sum()),
        tied=int(has_flag(rows, TIED).sum()),
        few=int(has_flag(rows, FEW).sum()),
        saturated=int(has_flag(rows, SATURATED).sum()),
        low_margin=int(low_margins(rows).sum()),
        different=int(described["description"].nunique()),
        among_runners_up=len(texts),
        concepts=run.run.get("concepts", {}).get("texts"),
        frequent={str(text): int(count) for text, count in frequent.items()},
        scores=histogram_of(rows["similarity"]),
        right=None if truth is None else int(truth["right"].sum()),
        near=None if truth is None else int(truth["right_any_synonym"].sum()),
        top5=None if top5 is None else round(top5 * len(rows)),
        classes_in_concepts=final.get("classes_in_concepts"),
        null_95=null.get("null_95"),
        above_null=null.get("above_null"),
        latents=_latents(run, name, not_dead) if is_of_latents(rows) else None,
        means=tuple(means(run, name)),
    )


def _latents(run: Run, layer: str, alive: pd.DataFrame) -> LatentsOverview:
    fit = _dict(_dict(_dict(run.run, "saes"), layer), "fit")
    return LatentsOverview(
        alive=len(alive),
        rare=int(has_flag(alive, RARE).sum()),
        density=float(alive["density"].median()) if len(alive) else None,
        explained_variance=fit.get("explained_variance"),
        l0=fit.get("l0"),
    )


def header(run: Run, units: int) -> list[tuple[str, str]]:
    """Return names and values of the run's settings, without unknown values."""
    metadata, layers = run.run, run.layers
    rows = [
        ("Target", _dict(metadata, "target").get("name")),
        ("Layers", f"{len(layers)}: {', '.join(layers)}" if len(layers) > 1 else layers[0]),
        ("Units", f"{units:,}"),
        ("Autoencoder", _autoencoders(_dict(metadata, "saes"))),
        ("Probe", _with_size(_dict(metadata, "probe"), "used", "images")),
        ("Concepts", _with_size(_dict(metadata, "concepts"), "texts", "texts")),
        ("Encoder", metadata.get("encoder")),
        ("Similarity", _with_parameters(_dict(metadata, "similarity"))),
        ("Method", _with_parameters(_dict(metadata, "method"))),
        ("Date", str(metadata.get("date", "")).replace("T", " ")[:16]),
        ("Took", _duration(_dict(metadata, "seconds"))),
        ("Version", _dict(metadata, "versions").get("clipdissect")),
    ]
    folders = known_folders(run)
    return [(name, shorten_paths(str(value), folders)) for name, value in rows if value]


def run_summary(run: Run, layers: Sequence[LayerOverview]) -> str:
    """Return the run's size and similarity function in one line."""
    units = sum(layer.units for layer in layers)
    concepts = _dict(run.run, "concepts").get("texts")
    parts = [f"{units:,} {'latents' if all(layer.latents for layer in layers) else 'units'}"]
    parts += [f"{run.images:,} images"] if run.images else []
    parts += [f"{concepts:,} concepts"] if concepts else []
    parts += [_with_parameters(_dict(run.run, "similarity"))]
    return ", ".join(filter(None, parts))


def layers_summary(layers: Sequence[LayerOverview]) -> str:
    """Return the names of the layers, and how many labels of the classes are right."""
    right = [
        f"{layer.right} of {layer.units} class names right"
        for layer in layers
        if layer.right is not None
    ]
    return "; ".join([", ".join(layer.name for layer in layers), *right])


def warnings(run: Run, layers: list[LayerOverview]) -> list[str]:
    """Return warnings to read before interpreting the labels."""
    probe = _dict(run.run, "probe")
    skipped = len(probe.get("skipped", ()))
    dead = sum(layer.dead for layer in layers if not layer.latents)
    silent = sum(layer.dead for layer in layers if layer.latents)
    texts = [run.problem] if run.problem else []
    texts += [str(note) for note in run.run.get("notes", ())]
    if skipped:
        texts.append(
            f"{skipped} of {probe.get('images')} images couldn't be read and were left out; "
            f"run.json lists them"
        )
    if dead:
        texts.append(f"{dead} units never vary on these images (dead) and have no description")
    if silent:
        texts.append(f"{silent:,} latents never fire on these images (dead)")
    if missing := why_no_pictures(run):
        texts.append(missing)
    folders = known_folders(run)
    return [shorten_paths(text, folders) for text in texts]


def why_no_pictures(run: Run) -> str:
    """Return why a run with top images has no pictures of them; empty if it has."""
    data = run.report_data
    if not len(run.top_images) or data.pictures:
        return ""
    if not data.facts:
        return (
            "there are no pictures and no histograms: the run's report data are missing (switched "
            "off by report.enabled=false, saved from Python without a report, interrupted, or "
            "written by another version)"
        )
    if data.facts.get("probe_images") is None:
        return "there are no pictures: the report was made without the network and the images"
    return "there are no pictures: none of the top images could be read when the report was made"


def picture_notes(run: Run) -> list[str]:
    """Return notes on how pictures, regions and histograms were computed."""
    data, layers = run.report_data, run.report_data.layers.values()
    notes = []
    if data.pictures:
        notes.append("Pictures show the network's input: the image after resizing and cropping.")
    sample_sizes = [layer["threshold_images"] for layer in layers if "thresholds" in layer]
    if sample_sizes:
        regions = _region_definition(sample_sizes, data.facts.get("probe_images"))
        notes.append(
            f"Bright regions are where {regions}. Maps finer than 28 x 28 positions are shown by "
            f"the largest value of each cell."
        )
    missing = sum(_without_region(run, layer) for layer in data.layers)
    if missing:
        notes.append(
            f"{missing:,} pictures have no region: the network was run again on some images "
            f"only (report.regions)."
        )
    whole = [layer["whole"] for layer in layers if "whole" in layer]
    top_only = [layer["images"] for layer in layers if layer.get("whole") is False]
    if top_only:
        units = "latent" if any(whole) else "unit"  # `capture.keep` may be `top_k` of latents only
        notes.append(
            f"Activation histograms count only the {top_only[0]} stored top images of each {units}."
        )
    return notes


def _without_region(run: Run, layer: str) -> int:
    """Count a layer's pictures on which the network was not run again."""
    outlines = run.report_data.layers[layer].get("outlines")
    if outlines is None:
        return 0
    pictures = sum(map(len, run.top_images_of(layer).values()))
    return pictures - sum(path is not None for paths in outlines for path in paths)


def _region_definition(sample_sizes: Sequence[int | None], total: int | None) -> str:
    """Say what regions are, for each layer's number of sampled images; see `Regions`."""
    of_units = [size for size in sample_sizes if size is not None]
    parts = [f"the unit exceeds {_threshold(of_units[0], total)}"] if of_units else []
    if None in sample_sizes:
        parts.append("the latent fires: patches with a code above 0, the brighter the larger it is")
    return "; of latents, where ".join(parts)


def _threshold(images: int, total: int | None) -> str:
    if not images:
        return "the threshold that the method used (column threshold)"
    sample = f"all {total}" if images == total else f"a random {images} of the {total}"
    return f"its 99.5 % quantile over positions, estimated from {sample} images of the probe"


def _dict(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _autoencoders(saes: dict[str, Any]) -> str:
    return ", ".join(
        f"{sae.get('name')} of {layer.removesuffix(LATENTS)}"
        for layer, sae in saes.items()
        if isinstance(sae, dict)
    )


def _with_size(values: dict[str, Any], size: str, unit: str) -> str:
    return f"{values['name']}, {values.get(size, 0):,} {unit}" if "name" in values else ""


def _with_parameters(values: dict[str, Any]) -> str:
    parameters = ", ".join(
        f"{key} {value}" for key, value in values.items() if key not in HIDDEN and value is not None
    )
    return f"{values.get('name', '')} ({parameters})" if parameters else values.get("name", "")


def _duration(stages: dict[str, float]) -> str:
    if not stages:
        return ""
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())
    total = sum(stages.values())
    return f"{total:.0f} s ({parts})" if total < 120 else f"{total / 60:.0f} min ({parts})"


def shorten_paths(text: str, folders: Sequence[str] = ()) -> str:
    """Reduce absolute paths in a text to their last part.

    Paths with spaces end ambiguously, so known folders are replaced first, literally.
    """
    for folder in sorted(folders, key=len, reverse=True):
        parts = re.split(_SLASH, folder.rstrip("/\\"))
        if not all(map(_ROOT.fullmatch, parts)):
            literal = rf"{_BEFORE}(?:file:[/\\]*)?{_SLASH.join(map(re.escape, parts))}"
            text = re.sub(rf"{literal}{_SLASH}", "…/", text)
            text = re.sub(rf"{literal}(?![\w.-])", "…", text)
    return _ABSOLUTE.sub(r"…/\1", text)


def known_folders(run: Run) -> list[str]:
    """Return home, the working folder, the run's parent, and parents of paths in run.json."""
    metadata = {name: value for name, value in run.run.items() if name != "notes"}
    texts = [text for text in _texts(metadata) if _STARTS_AS_PATH.match(text)]
    parents = [
        re.sub(rf"{_SLASH}[^/\\]*$", "", text.removeprefix("file:").rstrip("/\\")) for text in texts
    ]
    folders = [Path.cwd(), run.folder.absolute().parent]
    with suppress(RuntimeError):  # the user has no home
        folders.append(Path.home())
    return list(dict.fromkeys([*map(str, folders), *parents]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
