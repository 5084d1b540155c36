"""What a report needs of a run, gathered while its network and images are at hand."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.capture.settings import Settings
from clipdissect.errors import MissingResource
from clipdissect.evaluation.vectors import Sentences, vectors
from clipdissect.probe import Probe
from clipdissect.report.material import REPORT, THUMBNAILS, Material, short
from clipdissect.report.others import Labels
from clipdissect.report.outlines import outline
from clipdissect.report.pictures import Seen
from clipdissect.report.regions import Regions, find_regions
from clipdissect.report.settings import ReportSettings
from clipdissect.results.histograms import Histograms
from clipdissect.results.result import Result
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils import hashing
from clipdissect.utils.files import atomic


def collect(
    folder: Path,
    result: Result,
    target: Target | None = None,
    probe: Probe | None = None,
    settings: Settings | None = None,
    store: Store | None = None,
    *,
    truth: Mapping[str, Sequence[str]] | None = None,
    others: Mapping[str, Labels] | None = None,
    sentences: Sentences = None,
    look: ReportSettings | None = None,
) -> None:
    """Write thumbnails and material below a run's folder, for `build`.

    Args:
        folder: of the run.
        result: of a method.
        target: the network, for regions and for what it saw of the images; may be missing. Where
            the method showed it the images in another way, that is the way taken.
        probe: the images, for thumbnails; may be missing.
        settings: how to run the network.
        store: keeps regions and embeddings.
        truth: layer to its units' right names.
        others: labels of other methods by name, see `others.read_labels`.
        sentences: for how near texts are; without it, agreement means equal texts.
        look: what to show.

    Raises:
        DissectError: the network fails.
    """
    look = look or ReportSettings()
    shown = result.top_images[result.top_images["rank"] <= look.images]
    pictures: dict[str, list[str | None]] = {}
    found: dict[str, Regions] = {}
    if target is not None and probe is not None and len(shown):
        target = result.target or target
        pictures = _pictures(folder, Seen(probe, target.preprocess, look.thumbnail), shown, look)
        found = find_regions(
            target, probe, settings or Settings(), shown, look.regions, store
        )  # fmt: skip
        for layer in found.keys() & result.thresholds.keys():
            found[layer] = replace(found[layer], thresholds=result.thresholds[layer], images=0)
    texts = {"truth": {k: list(v) for k, v in (truth or {}).items()}, "others": dict(others or {})}
    facts = {
        "images": look.images, "paths": look.paths,
        "probe_images": len(probe) if probe is not None else None,
        **texts, **_agreement(result.descriptions, texts, sentences, store),
    }  # fmt: skip
    layers = {
        str(layer): _of_layer(result.histograms.get(str(layer)), found.get(str(layer)))
        for layer in result.descriptions["layer"].unique()
    }
    Material(facts, pictures, layers).write(folder)


def text_of(name: str) -> str:
    """An image's name as it stands in tables: parts that aren't text are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _pictures(
    folder: Path, seen: Seen, shown: pd.DataFrame, look: ReportSettings
) -> dict[str, list[str | None]]:
    """Thumbnails of the images, each written once; images without one are left out."""
    places = {name: i for i, name in enumerate(seen.probe.images)}
    found: dict[str, list[str | None]] = {}
    for name in dict.fromkeys(shown["image"]):
        made = seen.file(name)
        if made is None:
            continue
        path = (
            folder
            / REPORT
            / THUMBNAILS
            / f"{hashing.hash_values(seen.folder.name, name)[:20]}{made.suffix}"
        )
        if not path.is_file():
            with atomic(path) as temporary:
                shutil.copyfile(made, temporary)
        own = seen.probe.path(places[name]) if look.paths == "absolute" else None
        found[text_of(name)] = [path.name, str(own.absolute()) if own else None]
    return found


def _of_layer(histogram: Histograms | None, regions: Regions | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if histogram is not None:
        values |= {
            "low": _shorts(histogram.low), "high": _shorts(histogram.high),
            "counts": histogram.counts.tolist(), "images": histogram.images,
            "whole": histogram.whole,
        }  # fmt: skip
    if regions is not None:
        values |= {
            "thresholds": _shorts(regions.thresholds), "threshold_images": regions.images,
            "outlines": _outlines(regions),
        }  # fmt: skip
    return values


def _outlines(regions: Regions) -> list[list[str | None]]:
    """Each unit's paths, None where an image wasn't run."""
    maps, thresholds = (array.astype(np.float64) for array in regions.as_firing())
    run = ~np.isnan(regions.maps[:, :, 0, 0].numpy())
    return [
        [outline(own, threshold) if known else None
         for own, known in zip(slots, is_run, strict=True)]
        for slots, threshold, is_run in zip(maps, thresholds, run, strict=True)
    ]  # fmt: skip


def _agreement(
    descriptions: pd.DataFrame, texts: Mapping[str, Any], sentences: Sentences,
    store: Store | None,
) -> dict[str, Any]:  # fmt: skip
    """How near each unit's description is to the other texts known of it, at most 1."""
    pairs = [
        (row, str(text))
        for row, layer, unit in zip(
            range(len(descriptions)), descriptions["layer"], descriptions["unit"], strict=True
        )
        for text in _texts_on(texts, str(layer), int(unit))
    ]
    described = descriptions["description"].tolist()
    pairs = [(row, text) for row, text in pairs if text and described[row]]
    if not pairs:
        return {}
    ours, theirs = [described[row] for row, _ in pairs], [text for _, text in pairs]
    if sentences is not None and not isinstance(sentences, MissingResource):
        both = vectors(sentences, [sorted({*ours, *theirs})], store)
        near, by = both.cosines(ours, theirs), sentences.name
    else:
        near, by = np.asarray([one == other for one, other in zip(ours, theirs, strict=True)]), ""
    means = pd.Series(np.asarray(near, float)).groupby([row for row, _ in pairs]).mean()
    each = means.reindex(range(len(descriptions))).tolist()
    layers: dict[str, list[Any]] = {}
    for layer, value in zip(descriptions["layer"], each, strict=True):
        layers.setdefault(str(layer), []).append(short(value))
    return {"agreement": layers, "agreement_by": by}


def _texts_on(texts: Mapping[str, Any], layer: str, unit: int) -> list[str]:
    names = texts["truth"].get(layer, [])
    right = [names[unit]] if unit < len(names) else []
    return right + [labels.get(layer, {}).get(str(unit), "") for labels in texts["others"].values()]


def _shorts(values: Any) -> list[float | int | None]:
    return [short(value) for value in values.tolist()]
