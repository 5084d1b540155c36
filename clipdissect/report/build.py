"""Build the report of a run from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdissect.report.overview import (
    header,
    known_folders,
    layers_summary,
    overview,
    picture_notes,
    run_summary,
    shorten_paths,
    warnings,
)
from clipdissect.report.page import (
    CHUNK,
    Page,
    TextTable,
    descriptions,
    details,
    ground_truth,
    other_labels,
)
from clipdissect.report.report_data import REPORT, THUMBNAILS
from clipdissect.report.run import Run, load, run_folder
from clipdissect.report.scores import names_of, page_scores, score_of, side_scores
from clipdissect.report.search_table import search_values
from clipdissect.results.sweeps import own_overrides


def build(folder: str | Path, *, single_file: bool = False, megabytes: float = 30.0) -> Path:
    """Write `<folder>/report/index.html` from a run's files, and return its path.

    A single file embeds everything, with at most `megabytes` of pictures.
    """
    run = load(run_folder(folder))
    return _page(run).write(run.folder / REPORT, single_file, megabytes)


def short_name(run: Run) -> str:
    return shorten_paths(run.name, known_folders(run))


def single_file(folder: str | Path, megabytes: float) -> str:
    """Return the single file of `build` as a text, without writing it."""
    run = load(run_folder(folder))
    return _page(run).single_file(run.folder / REPORT / THUMBNAILS, megabytes)


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
        "sides": [short_name(run)],
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
    heading, name = shorten_paths(heading, known_folders(run)), short_name(run)
    job = f": {name}" if own_overrides(run.folder) else ""
    values = {
        "body": "run",
        "title": f"{heading or name}{job} - clipdissect",
        "kind": f"Report of a run{job}",
        "heading": heading or name,
        "about": run_summary(run, layers),
        "overview": layers_summary(layers),
        "layers": layers,
        "facts": header(run, sum(layer.units for layer in layers)),
        "warnings": warnings(run, layers),
        "notes": picture_notes(run),
        "made": f"Run {name}.",
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
