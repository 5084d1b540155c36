"""Build the report of a run, or of two runs compared unit by unit, from their files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from clipdissect.capture.latents import digest_name
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation.layers import is_of_latents
from clipdissect.evaluation.vectors import Sentences, Vectors, vectors
from clipdissect.report.overview import (
    header,
    histogram_of,
    known_folders,
    overview,
    picture_notes,
    shorten_paths,
    warnings,
)
from clipdissect.report.page import (
    CHUNK,
    Page,
    TextTable,
    check_folder,
    descriptions,
    details,
    ground_truth,
    other_labels,
)
from clipdissect.report.report_data import REPORT, THUMBNAILS, rounded
from clipdissect.report.run import Run, load, run_folder
from clipdissect.report.scores import names_of, page_scores, score_of, side_scores
from clipdissect.report.search_table import search_values
from clipdissect.store import Store
from clipdissect.utils.files import atomic

TAGS = ("A", "B")
PARTS = ("method", "target", "probe", "concepts", "encoder", "similarity")
Runs = tuple[Run, Run]


def build(folder: str | Path, *, single_file: bool = False, megabytes: float = 30.0) -> Path:
    """Write `<folder>/report/index.html` from a run's files, and return its path.

    A single file embeds everything, with at most `megabytes` of pictures.
    """
    run = load(run_folder(folder))
    return _page(run).write(run.folder / REPORT, single_file, megabytes)


def picture_slots(run: Run) -> int:
    """Return the number of pictures per unit; 0 if the run has no top images."""
    limit = int(run.report_data.facts.get("images", 5))
    return min(limit, int(run.top_images["rank"].max())) if len(run.top_images) else 0


def has_regions(run: Run) -> bool:
    return any("outlines" in layer for layer in run.report_data.layers.values())


def _page(run: Run) -> Page:
    layers, texts = overview(run), TextTable()
    start = {
        "mode": "run",
        "chunk": CHUNK,
        "sides": [run.name],
        "others": list(run.report_data.facts.get("others", {})),
        "slots": [picture_slots(run)],
        "regions": has_regions(run),
        "scores": page_scores([run]),
        "layers": [_layer(run, name, texts) for name in run.layers],
        "texts": list(texts.numbers),
    }
    chunks = {
        (0, number, chunk): values
        for number, layer in enumerate(run.layers)
        for chunk, values in enumerate(details(run, layer, run.rows(layer)["unit"].tolist()))
    }
    parts = (run.run.get(key, {}) for key in ("target", "probe"))
    heading = " on ".join(part["name"] for part in parts if part.get("name"))
    heading = shorten_paths(heading, known_folders(run)) or run.name
    values = {
        "body": "run",
        "title": f"{heading} - clipdissect",
        "kind": "Report of a run",
        "heading": heading,
        "layers": layers,
        "facts": header(run, sum(layer.units for layer in layers)),
        "warnings": warnings(run, layers),
        "notes": picture_notes(run),
        "made": f"Run {run.name}.",
        "has_latents": any(layer.latents for layer in layers),
        "has_meanings": len(run.meanings) > 0,
        "has_truth": any(layer.right is not None for layer in layers),
        "scores": [score_of(name) for name in names_of([run])],
        "agreement": _agreement_definition(run),
    }
    return Page("report.html", values, start, chunks, search_values(run))


def _agreement_definition(run: Run) -> str:
    encoder = run.report_data.facts.get("agreement_by")
    if encoder is None:
        return ""
    texts = "the class's name and other methods' labels"
    if encoder:
        return f"mean cosine of the description and {texts}, of sentence embeddings ({encoder})."
    return f"the share of {texts} that equal the description (no sentence encoder was available)."


def _layer(run: Run, name: str, texts: TextTable) -> dict[str, Any]:
    rows = run.rows(name)
    units = rows["unit"].tolist()
    return {
        "name": name,
        "units": len(units) if units == list(range(len(units))) else units,
        "sides": [descriptions(run, rows, texts) | side_scores(run, rows, run.score_names, texts)],
        **ground_truth(run, name, texts),
        **other_labels(run, name, units, texts),
    }


@dataclass(frozen=True)
class LayerPair:
    """A layer of both runs, restricted to common units that at least one run describes.

    `cosines` are of the two descriptions; NaN if one is missing or there is no encoder.
    """

    name: str
    rows: tuple[pd.DataFrame, pd.DataFrame]
    cosines: Float[np.ndarray, " units"]

    @property
    def units(self) -> list[int]:
        return [int(unit) for unit in self.rows[0]["unit"]]

    @property
    def same(self) -> list[int]:
        """1 where the descriptions are equal, else 0."""
        equal = self.rows[0]["description"] == self.rows[1]["description"]
        return equal.astype(int).tolist()


def compare(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    *,
    sentences: Sentences = None,
    store: Store | None = None,
    single_file: bool = False,
    megabytes: float = 30.0,
) -> Path:
    """Write a page that shows two runs side by side, changed labels first; return its path.

    Without `sentences`, only equality of descriptions is shown. Raise a DissectError if the runs
    have no unit in common or `out` has a foreign `index.html`.
    """
    folder = Path(out).expanduser()
    check_folder(folder)  # before the slow part
    runs = (load(first), load(second))
    pairs = _pair_layers(runs, sentences, store)
    encoder = "" if sentences is None or isinstance(sentences, MissingResource) else sentences.name
    page = _compare_page(runs, pairs, encoder)
    for run in runs:
        _copy_thumbnails(run, folder)
    return page.write(folder, single_file, megabytes)


def _pair_layers(runs: Runs, sentences: Sentences, store: Store | None) -> list[LayerPair]:
    paired = [layer for layer in _common_layers(runs) if not _latents_differ(runs, layer)]
    tables = {layer: _common_rows(runs, layer) for layer in paired}
    tables = {layer: rows for layer, rows in tables.items() if len(rows[0])}
    if not tables:
        names = [", ".join(run.layers) for run in runs]
        raise DissectError(
            f"the two runs have no described unit in common: {runs[0].name} has layers {names[0]}; "
            f"{runs[1].name} has {names[1]}"
        )
    embeddings = None
    if sentences is not None and not isinstance(sentences, MissingResource):
        texts = {text for rows in tables.values() for side in rows for text in side["description"]}
        embeddings = vectors(sentences, [sorted(filter(None, texts))], store)
    return [LayerPair(layer, rows, _cosines(rows, embeddings)) for layer, rows in tables.items()]


def _common_layers(runs: Runs) -> list[str]:
    return [layer for layer in runs[0].layers if layer in runs[1].layers]


def _latents_differ(runs: Runs, layer: str) -> bool:
    """Return whether a layer's units are latents of two autoencoders, whose numbers differ."""
    digests = [run.run.get("digests", {}).get(digest_name(layer)) for run in runs]
    return bool(digests[0] != digests[1])


def _common_rows(runs: Runs, layer: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    first, second = (run.rows(layer).drop_duplicates("unit").set_index("unit") for run in runs)
    units = first.index.intersection(second.index).sort_values()
    first, second = first.loc[units], second.loc[units]
    described = (first["description"] != "") | (second["description"] != "")
    return first[described].reset_index(), second[described].reset_index()


def _cosines(
    rows: tuple[pd.DataFrame, pd.DataFrame], embeddings: Vectors | None
) -> Float[np.ndarray, " units"]:
    first, second = (side["description"].to_numpy(dtype=object) for side in rows)
    cosines = np.full(len(first), np.nan)
    described = (first != "") & (second != "")
    if embeddings is not None and described.any():
        cosines[described] = embeddings.cosines(list(first[described]), list(second[described]))
    return cosines


def _compare_page(runs: Runs, pairs: list[LayerPair], encoder: str) -> Page:
    texts = TextTable()
    shared = _same_images(runs, pairs)
    start = {
        "mode": "compare",
        "chunk": CHUNK,
        "sides": _short_names(runs),
        "others": [],
        "slots": [picture_slots(run) for run in runs],
        "shared": shared,
        "regions": any(map(has_regions, runs)),
        "scores": page_scores(runs),
        "layers": [_layer_of_both(runs, pair, texts) for pair in pairs],
        "texts": list(texts.numbers),
    }
    chunks = {
        (side, number, chunk): values
        for side, run in enumerate(runs[:1] if shared else runs)
        for number, pair in enumerate(pairs)
        for chunk, values in enumerate(details(run, pair.name, pair.units))
    }
    return Page("compare.html", _template_values(runs, pairs, encoder), start, chunks)


def _short_names(runs: Runs) -> list[str]:
    """Return names of the parts in which the runs differ, else the folders' names."""
    parts = [[_part_name(run.run.get(part)) for part in PARTS] for run in runs]
    names = []
    for run, run_parts, other_parts in zip(runs, parts, reversed(parts), strict=True):
        differing = [a for a, b in zip(run_parts, other_parts, strict=True) if a and a != b]
        names.append(shorten_paths(", ".join(differing), known_folders(run)) or run.name)
    return names if names[0] != names[1] else [run.name for run in runs]


def _part_name(part: Any) -> str:
    return str(part.get("name", "")) if isinstance(part, dict) else str(part or "")


def _layer_of_both(runs: Runs, pair: LayerPair, texts: TextTable) -> dict[str, Any]:
    truths = [ground_truth(run, pair.name, texts, pair.units) for run in runs]
    class_names = next((truth["t"] for truth in truths if truth), None)
    truth = {} if class_names is None else {"t": class_names, "k": [None] * len(pair.units)}
    sides, names = zip(runs, pair.rows, strict=True), names_of(runs)
    return {
        "name": pair.name,
        "units": pair.units,
        "sides": [
            descriptions(run, rows, texts) | side_scores(run, rows, names, texts)
            for run, rows in sides
        ],
        "same": pair.same,
        "near": [rounded(value) for value in pair.cosines],
        **truth,
    }


def _template_values(runs: Runs, pairs: list[LayerPair], encoder: str) -> dict[str, Any]:
    cosines = np.concatenate([pair.cosines for pair in pairs])
    names = _short_names(runs)
    layers = [_layer_row(runs, pair) for pair in pairs]
    return {
        "body": "compare",
        "title": f"{names[0]} and {names[1]} - clipdissect",
        "kind": "CLIP-Dissect comparison",
        "heading": f"{names[0]} and {names[1]}",
        "sides": [
            {
                "tag": tag,
                "name": name,
                "warnings": warnings(run, overview(run)),
                "facts": [("Run", run.name), *header(run, len(run.descriptions))],
            }
            for tag, name, run in zip(TAGS, names, runs, strict=True)
        ],
        "compared": len(cosines),
        "same": sum(layer["same"] for layer in layers),
        "by": encoder,
        "mean": _mean(cosines),
        "histogram": histogram_of(pd.Series(cosines)),
        "pairing": _pairing_notes(runs, pairs),
        "notes": picture_notes(runs[0]),
        "made": "",
        "layers": layers,
        "has_latents": any(is_of_latents(side) for pair in pairs for side in pair.rows),
        "has_meanings": any(len(run.meanings) for run in runs),
        "scores": [score_of(name) for name in names_of(runs)],
        "any_truth": any(right is not None for layer in layers for right in layer["right"]),
        "words": f"cosine of their sentence embeddings ({encoder}); 1 is the same text."
        if encoder
        else "no sentence encoder was available, so only equal texts are counted.",
    }


def _layer_row(runs: Runs, pair: LayerPair) -> dict[str, Any]:
    return {
        "name": pair.name,
        "units": len(pair.units),
        "same": sum(pair.same),
        "mean": _mean(pair.cosines),
        "right": [_correct_counts(run, pair) for run in runs],
    }


def _mean(cosines: Float[np.ndarray, " units"]) -> float | None:
    known = cosines[np.isfinite(cosines)]
    return float(known.mean()) if len(known) else None


def _correct_counts(run: Run, pair: LayerPair) -> tuple[int, int] | None:
    """Return how many labels are the class name, and how many are any of its synonyms."""
    truth = run.ground_truth(pair.name)
    if truth is None:
        return None
    is_compared = run.rows(pair.name)["unit"].isin(pair.units).to_numpy()
    exact, synonym = (truth[c][is_compared].sum() for c in ("right", "right_any_synonym"))
    return int(exact), int(synonym)


def _pairing_notes(runs: Runs, pairs: list[LayerPair]) -> list[str]:
    others = [layer for layer in _common_layers(runs) if _latents_differ(runs, layer)]
    names = {*(pair.name for pair in pairs), *others}
    notes = []
    for tag, run in zip(TAGS, runs, strict=True):
        unpaired = [layer for layer in run.layers if layer not in names]
        if unpaired:
            layers = shorten_paths(", ".join(unpaired), known_folders(run))
            notes.append(f"Only in {tag}, and not compared: {layers}.")
    if others:
        notes.append(
            f"Not compared, as the runs have different sparse autoencoders: {', '.join(others)}."
        )
    left_out = 0
    for pair in pairs:
        units = [set(run.rows(pair.name)["unit"]) for run in runs]
        left_out += len(set.union(*units)) - len(pair.units)
    if left_out:
        notes.append(
            f"{left_out:,} units that only one run has, or that neither describes, are left out."
        )
    return notes


def _same_images(runs: Runs, pairs: list[LayerPair]) -> bool:
    """Return whether both have the same top images, so that one set is enough."""
    tables = []
    for run in runs:
        rows = run.top_images[run.top_images["layer"].isin([pair.name for pair in pairs])]
        if not len(rows):
            return False
        rows = rows[rows["rank"] <= picture_slots(run)]
        tables.append(rows[["layer", "unit", "rank", "image"]].reset_index(drop=True))
    pictures = [run.report_data.pictures for run in runs]
    return tables[0].equals(tables[1]) and pictures[0] == pictures[1]


def _copy_thumbnails(run: Run, folder: Path) -> None:
    for file, *_ in run.report_data.pictures.values():
        source = run.folder / REPORT / THUMBNAILS / str(file)
        path = folder / THUMBNAILS / str(file)
        if source.is_file() and not path.is_file():
            with atomic(path) as temporary:
                shutil.copyfile(source, temporary)
