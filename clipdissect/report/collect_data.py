"""Collect a report's data while the network and the images are available."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped
from PIL import Image
from torch import Tensor

from clipdissect import method
from clipdissect.capture.latents import digest_name
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation.vectors import Sentences, vectors
from clipdissect.masks.regions import Regions, find_regions
from clipdissect.method import Job
from clipdissect.probe import Probe
from clipdissect.probe.thumbnails import NetworkInputs
from clipdissect.report.outlines import heat_maps, outlines
from clipdissect.report.report_data import REPORT, THUMBNAILS, ReportData, read_report_data, rounded
from clipdissect.report.run import run_folder
from clipdissect.results.histograms import Histograms
from clipdissect.results.run_files import contents
from clipdissect.results.tables import ResultTables
from clipdissect.sae.neighbours import stored_neighbours
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils import hashing
from clipdissect.utils.files import link_or_copy
from clipdissect.utils.memo import Memo
from clipdissect.utils.type_checks import check_choice, check_fields, check_range, checked_fields

Pictures = dict[str, list[str | None]]
Labels = dict[str, dict[str, str]]  # layer to unit number to label
RANGES = {
    "images": (1, 100),
    "regions": (0, 10**9),
    "thumbnail": (16, 1024),
    "megabytes": (0, 10**6),
}


@checked_fields
@dataclass(frozen=True)
class ReportSettings:
    """Content and storage of a report.

    Args:
        images: top images per unit, at most as many as the run has.
        regions: most images to run again for regions: a random sample, then top images by rank;
            0 disables regions.
        thumbnail: width and height of a picture, in pixels.
        single_file: embed everything in `index.html`, up to `megabytes`.
        megabytes: limit for the pictures in a single file.
        paths: `relative` to the probe's folder, or `absolute`, which links to the image files and
            reveals folders of this machine.
    """

    images: int = 5
    regions: int = 400
    thumbnail: int = 160
    single_file: bool = False
    megabytes: float = 30.0
    paths: str = "relative"

    def __post_init__(self) -> None:
        check_fields(self, "report.")
        for name, limits in RANGES.items():
            check_range(f"report.{name}", getattr(self, name), *limits)
        check_choice("report.paths", self.paths, ("relative", "absolute"))


def collect(
    folder: Path,
    result: ResultTables,
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
    """Write thumbnails and report data below a run's folder, for `build`.

    Without target and probe there are no pictures; `result.target` takes precedence over
    `target`. `truth` maps layers to class names, `others` method names to labels. Without
    `sentences`, agreement of texts means equality.
    """
    look, settings = look or ReportSettings(), settings or Settings()
    top_images = result.top_images[result.top_images["rank"] <= look.images]
    visuals = _Visuals()
    if target is not None and probe is not None and len(top_images):
        job = _Job(result, result.target or target, probe, settings, store, look, top_images)
        visuals = job.visuals()
        visuals.copy_to(folder / REPORT / THUMBNAILS)
    texts = {"truth": {k: list(v) for k, v in (truth or {}).items()}, "others": dict(others or {})}
    facts = {
        "images": look.images,
        "paths": look.paths,
        "probe_images": len(probe) if probe is not None else None,
        **texts,
        **_agreement(result.descriptions, texts, sentences, store),
    }
    neighbours = {} if target is None else _neighbours(target, settings, store)
    layers = {
        str(layer): _histogram_values(result.histograms.get(str(layer)))
        | visuals.regions.get(str(layer), {})
        | neighbours.get(str(layer), {})
        for layer in result.descriptions["layer"].unique()
    }
    ReportData(facts, visuals.pictures, layers).write(folder)


def _inputs(probe: Probe, target: Target, look: ReportSettings) -> NetworkInputs:
    # A lazy target is built for its first picture; cached pictures don't need it.
    def preprocess(image: Image.Image) -> Tensor:
        return target.preprocess(image)

    return NetworkInputs(probe, preprocess, look.thumbnail, target.preprocess_digest)


@dataclass(frozen=True)
class _Visuals:
    """What a report shows of images: entries of `ReportData`, and files by name to be copied."""

    pictures: Pictures = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    regions: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def are_complete(self) -> bool:
        return all(file.is_file() for file in self.files.values())

    def copy_to(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in self.files.items():
            link_or_copy(file, folder / name)


_visuals: Memo[_Visuals] = Memo(2)


@dataclass(frozen=True)
class _Job:
    result: ResultTables
    target: Target
    probe: Probe
    settings: Settings
    store: Store | None
    look: ReportSettings
    top_images: pd.DataFrame

    def visuals(self) -> _Visuals:
        """Return the visuals, or those of an earlier job of this process on the same features."""
        run, digests = self.result.run, self.result.run.get("digests", {})
        is_own = self.result.target is not None or self.result.thresholds
        names = ["target", "target preprocess", "images", *map(digest_name, self.target.saes)]
        if is_own or not set(names) <= digests.keys():
            return self._compute()
        of_network = hashing.hash_values([digests[name] for name in names], self.probe.digest)
        settings = self.settings.numeric, self.settings.summary, run.get("precision")
        images = self.probe.images, self.probe.path(0), contents(self.top_images)
        key = (of_network, settings, self.look, *images)
        return _visuals.get(key, self._compute, lambda kept: kept.are_complete)

    def _compute(self) -> _Visuals:
        inputs = _inputs(self.probe, self.target, self.look)
        pictures, files = _thumbnails(inputs, self.top_images["image"], self.look)
        parts = self.target, self.probe, self.settings, self.top_images
        regions = find_regions(*parts, self.look.regions, self.store)
        # Regions of latents show where they fire.
        for layer in regions.keys() & self.result.thresholds.keys() - self.target.saes.keys():
            thresholds = self.result.thresholds[layer]
            regions[layer] = replace(regions[layer], thresholds=thresholds, images=0)
        values = {layer: _region_values(of_layer) for layer, of_layer in regions.items()}
        return _Visuals(pictures, files, values)


def _thumbnails(
    inputs: NetworkInputs, names: pd.Series, look: ReportSettings
) -> tuple[Pictures, dict[str, Path]]:
    """Make each image's thumbnail once; skip unreadable images."""
    probe = inputs.probe
    numbers = {name: i for i, name in enumerate(probe.images)}
    pictures: Pictures = {}
    files: dict[str, Path] = {}
    for name in dict.fromkeys(names):
        thumbnail = inputs.file(name)
        if thumbnail is None:
            continue
        file = f"{hashing.hash_values(inputs.folder.name, name)[:20]}{thumbnail.suffix}"
        files[file] = thumbnail
        source = probe.path(numbers[name]) if look.paths == "absolute" else None
        # Tables escape the parts of file names that aren't valid text.
        key = name.encode("utf-8", "backslashreplace").decode()
        pictures[key] = [file, str(source.absolute()) if source else None]
    return pictures, files


def _histogram_values(histogram: Histograms | None) -> dict[str, Any]:
    if histogram is None:
        return {}
    return {
        "low": _rounded_list(histogram.low),
        "high": _rounded_list(histogram.high),
        "counts": histogram.counts.tolist(),
        "images": histogram.images,
        "whole": histogram.whole,
    }


def _neighbours(
    target: Target, settings: Settings, store: Store | None
) -> dict[str, dict[str, list[list[tuple[int, float | None]]]]]:
    """Return the latents with similar decoder directions, by layer; see `sae.neighbours`."""
    values = {}
    for layer, sae in target.saes.items():
        neighbours = stored_neighbours(sae, settings.scoring_device, store)
        if neighbours is not None:
            lists = [[(n, rounded(c)) for n, c in row] for row in neighbours.as_lists]
            values[layer] = {"neighbours": lists}
    return values


def _region_values(regions: Regions) -> dict[str, Any]:
    maps, thresholds = regions.as_firing()
    values = {
        "thresholds": _rounded_list(regions.thresholds),
        "threshold_images": regions.images,
        "outlines": _outlines(maps, thresholds, regions.has_map),
    }
    return values if regions.images is not None else values | _heat(regions)


def _heat(regions: Regions) -> dict[str, Any]:
    """Return `heat`, latents' codes on the patches per unit and slot, and `width` in patches."""
    units, slots = np.nonzero(regions.has_map)
    maps, highest = regions.maps[units, slots].float().numpy(), regions.highest.numpy()[units]
    texts = [[""] * regions.maps.shape[1] for _ in regions.maps]
    for unit, slot, text in zip(units, slots, heat_maps(maps, highest), strict=True):
        texts[unit][slot] = text
    return {"heat": texts, "width": maps.shape[2]}


def _outlines(
    maps: Shaped[np.ndarray, "units slots h w"],
    thresholds: Float[np.ndarray, " units"],
    has_map: Bool[np.ndarray, "units slots"],
) -> list[list[str | None]]:
    """Return SVG paths per unit and slot; None where the network was not run again."""
    paths: list[list[str | None]] = [[None] * maps.shape[1] for _ in maps]
    for threshold in np.unique(thresholds):  # one of all latents, with all their maps
        units, slots = np.nonzero(has_map & (thresholds == threshold)[:, None])
        of_maps = outlines(maps[units, slots], float(threshold))
        for unit, slot, path in zip(units.tolist(), slots.tolist(), of_maps, strict=True):
            paths[unit][slot] = path
    return paths


def _agreement(
    descriptions: pd.DataFrame, texts: Mapping[str, Any], sentences: Sentences, store: Store | None
) -> dict[str, Any]:
    """Return each unit's mean similarity of its description and other texts on it, at most 1."""
    keys = zip(descriptions["layer"], descriptions["unit"], strict=True)
    others = [_other_texts(texts, str(layer), int(unit)) for layer, unit in keys]
    described = descriptions["description"].tolist()
    pairs = [
        (row, str(text))
        for row, row_texts in enumerate(others)
        for text in row_texts
        if text and described[row]
    ]
    if not pairs:
        return {}
    left, right = [described[row] for row, _ in pairs], [text for _, text in pairs]
    if sentences is None or isinstance(sentences, MissingResource):
        encoder, values = "", np.array([a == b for a, b in zip(left, right, strict=True)], float)
    else:
        encoder = sentences.name
        values = vectors(sentences, [sorted({*left, *right})], store).cosines(left, right)
    means = pd.Series(values).groupby([row for row, _ in pairs]).mean()
    layers: dict[str, list[Any]] = {}
    per_row = means.reindex(range(len(descriptions))).tolist()
    for layer, value in zip(descriptions["layer"], per_row, strict=True):
        layers.setdefault(str(layer), []).append(rounded(value))
    return {"agreement": layers, "agreement_by": encoder}


def _other_texts(texts: Mapping[str, Any], layer: str, unit: int) -> list[str]:
    """Return the class name, if known, and other methods' labels."""
    labels = [labels.get(layer, {}).get(str(unit), "") for labels in texts["others"].values()]
    return [*texts["truth"].get(layer, [])[unit : unit + 1], *labels]


def _rounded_list(values: Any) -> list[float | int | None]:
    return [rounded(value) for value in values.tolist()]


def read_labels(name: str, source: str | Mapping[str, Any]) -> Labels:
    """Read a method's labels from a run's folder, a CSV file, or a method's name and parameters.

    The file has columns `layer, unit, description`; the method must read labels from a file,
    such as `{name: published_milan, path: FILE}`. `name` is the method's name in messages.
    """
    if isinstance(source, str):
        path = Path(source).expanduser()
        path = path / "descriptions.csv" if path.is_dir() else path
        if not path.is_file():
            hint = "report.against names folders of runs, and files of labels"
            raise MissingResource(f"the labels of {name}", [str(path.absolute())], hint)
        source = {"name": "published", "path": str(path)}
    built = method.build(**source)
    if built.needs:
        raise DissectError(
            f"report.against.{name} must read labels from a file; "
            f"{built.name} describes units itself"
        )
    table = built.describe(Job()).descriptions
    labels: Labels = {}
    columns = (table[column] for column in ("layer", "unit", "description"))
    for layer, unit, text in zip(*columns, strict=True):
        labels.setdefault(str(layer), {})[str(unit)] = str(text)
    return labels


def set_others(run: str | Path, others: Mapping[str, Labels]) -> None:
    """Replace other methods' labels in a run's report data; drop the outdated agreement."""
    folder = run_folder(run)
    data = read_report_data(folder)
    facts = {key: v for key, v in data.facts.items() if not key.startswith("agreement")}
    replace(data, facts={**facts, "others": dict(others)}).write(folder)
