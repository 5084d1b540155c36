"""The report of a run, from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdissect.report import page
from clipdissect.report.data import CHUNK, Texts, details, others, side, truths
from clipdissect.report.facts import header, notes_on_pictures, warnings
from clipdissect.report.loading import Run, load, run_folder
from clipdissect.report.material import REPORT
from clipdissect.report.overview import overview
from clipdissect.report.relative import relative, roots_of


def build(folder: str | Path, *, single_file: bool = False, megabytes: float = 30.0) -> Path:
    """Write `<folder>/report/index.html` from the run's files; needs no network and no image.

    Args:
        folder: of a run, complete or not, that has at least `descriptions.csv`.
        single_file: everything in `index.html`.
        megabytes: of pictures in a single file.

    Returns:
        The path of `index.html`.

    Raises:
        MissingResource: the folder has no descriptions.
        DissectError: a table can't be read, or the folder is a file.
    """
    run = load(run_folder(folder))
    made = page_of(run)
    out = run.folder / REPORT
    return page.write_single(made, out, megabytes) if single_file else page.write(made, out)


def page_of(run: Run) -> page.Page:
    """The page of a run."""
    layers, texts = overview(run), Texts()
    start = {
        "mode": "run", "chunk": CHUNK, "sides": [run.name],
        "others": list(run.material.facts.get("others", {})),
        "slots": [slots(run)], "regions": outlined(run),
        "layers": [_layer(run, name, texts) for name in run.layers], "texts": list(texts.numbers),
    }  # fmt: skip
    found = {
        (0, number, chunk): values
        for number, layer in enumerate(run.layers)
        for chunk, values in enumerate(details(run, layer, run.rows(layer)["unit"].tolist()))
    }
    target, probe = (run.run.get(key, {}) for key in ("target", "probe"))
    heading = " on ".join(part["name"] for part in (target, probe) if part.get("name"))
    heading = relative(heading, roots_of(run)) or run.name
    values = {
        "body": "run", "title": f"{heading} - clipdissect",
        "kind": "CLIP-Dissect report", "heading": heading, "layers": layers,
        "facts": header(run, sum(layer.units for layer in layers)),
        "warnings": warnings(run, layers), "notes": notes_on_pictures(run),
        "made": f"Run {run.name}.",
        "has_truth": any(layer.right is not None for layer in layers),
        "agreement": agreement_words(run),
    }  # fmt: skip
    return page.Page("report.html", values, start, found)


def slots(run: Run) -> int:
    """Pictures a unit: 0 where the run has no top images."""
    most = int(run.material.facts.get("images", 5))
    return min(most, int(run.top_images["rank"].max())) if len(run.top_images) else 0


def outlined(run: Run) -> bool:
    """Whether any picture has a region."""
    return any("outlines" in own for own in run.material.layers.values())


def agreement_words(run: Run) -> str:
    """What the number `agreement` means; empty where there is none."""
    by = run.material.facts.get("agreement_by")
    if by is None:
        return ""
    what = "the class's name and other methods' labels"
    if by:
        return f"mean cosine of the description and {what}, of sentence embeddings ({by})."
    return f"the share of {what} that equal the description (no sentence encoder was at hand)."


def _layer(run: Run, name: str, texts: Texts) -> dict[str, Any]:
    rows = run.rows(name)
    units = rows["unit"].tolist()
    plain = units == list(range(len(units)))
    return {
        "name": name, "units": len(units) if plain else units, "sides": [side(run, rows, texts)],
        **truths(run, name, texts), **others(run, name, units, texts),
    }  # fmt: skip
