"""Two runs or methods, unit by unit: what changed, and how far."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation.vectors import Sentences, vectors
from clipdissect.report import page
from clipdissect.report.build import outlined, slots
from clipdissect.report.data import CHUNK, Texts, details, side, truths
from clipdissect.report.facts import header, notes_on_pictures, warnings
from clipdissect.report.loading import Run, load
from clipdissect.report.material import REPORT, THUMBNAILS, short
from clipdissect.report.overview import histogram_of, overview
from clipdissect.report.relative import relative, roots_of
from clipdissect.report.truths import truth_of
from clipdissect.store import Store
from clipdissect.utils.files import atomic

TAGS = ("A", "B")


@dataclass(frozen=True)
class Pair:
    """One layer of both runs, their rows of the same units.

    Args:
        name: the layer's.
        rows: of A and of B, `[units]` each; units that neither describes are left out.
        same: whether the descriptions are equal.
        near: similarity of the two texts, NaN where one is missing or there is no encoder.
    """

    name: str
    rows: tuple[pd.DataFrame, pd.DataFrame]
    same: list[bool]
    near: Float[np.ndarray, " units"]

    @property
    def units(self) -> list[int]:
        """Their numbers."""
        return [int(unit) for unit in self.rows[0]["unit"]]

    @property
    def mean(self) -> float | None:
        """Of the similarities; None where there are none."""
        known = self.near[np.isfinite(self.near)]
        return float(known.mean()) if len(known) else None


def compare(
    first: str | Path, second: str | Path, out: str | Path, *, sentences: Sentences = None,
    store: Store | None = None, single_file: bool = False, megabytes: float = 30.0,
) -> Path:  # fmt: skip
    """Write a page that shows two runs side by side, changed labels first.

    Args:
        first, second: folders of runs, or files of labels.
        out: the page's folder.
        sentences: for the similarity of two texts; without it, only equal texts are told.
        store: keeps the embeddings.
        single_file: everything in `index.html`.
        megabytes: of pictures in a single file.

    Returns:
        The path of `index.html`.

    Raises:
        MissingResource: a run has no descriptions.
        DissectError: the runs have no unit in common, or `out` has an `index.html` of something
            else.
    """
    folder = Path(out).expanduser()
    page.check(folder)  # before what takes time
    runs = (load(first), load(second))
    pairs = paired(runs, sentences, store)
    made = _page(runs, pairs, sentences)
    for run in runs:
        _copy_pictures(run, folder)
    return page.write_single(made, folder, megabytes) if single_file else page.write(made, folder)


def paired(runs: tuple[Run, Run], sentences: Sentences, store: Store | None) -> list[Pair]:
    """The layers and units that both runs have.

    Raises:
        DissectError: there are none.
    """
    common = [layer for layer in runs[0].layers if layer in runs[1].layers]
    tables = {layer: _common_rows(runs, layer) for layer in common}
    tables = {layer: rows for layer, rows in tables.items() if len(rows[0])}
    if not tables:
        names = [", ".join(run.layers) for run in runs]
        raise DissectError(
            f"the two have no described unit in common: {runs[0].name} is of {names[0]}; "
            f"{runs[1].name} of {names[1]}"
        )
    texts = [[list(rows["description"]) for rows in pair] for pair in tables.values()]
    near = _near(texts, sentences, store)
    return [
        Pair(layer, rows, [a == b for a, b in zip(*both, strict=True)], values)
        for (layer, rows), both, values in zip(tables.items(), texts, near, strict=True)
    ]


def _common_rows(runs: tuple[Run, Run], layer: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    one, other = (run.rows(layer).drop_duplicates("unit").set_index("unit") for run in runs)
    units = one.index.intersection(other.index).sort_values()
    described = (one.loc[units, "description"] != "") | (other.loc[units, "description"] != "")
    units = units[described.to_numpy()]
    return one.loc[units].reset_index(), other.loc[units].reset_index()


def _near(
    texts: Sequence[Sequence[list[str]]], sentences: Sentences, store: Store | None
) -> list[Float[np.ndarray, " units"]]:
    """Each layer's similarities of the two texts."""
    if sentences is None or isinstance(sentences, MissingResource):
        return [np.full(len(one), np.nan) for one, _ in texts]
    every = sorted({text for both in texts for own in both for text in own if text})
    known = vectors(sentences, [every], store)
    found = []
    for one, other in texts:
        values = np.full(len(one), np.nan)
        rows = [i for i in range(len(one)) if one[i] and other[i]]
        if rows:
            values[rows] = known.cosines([one[i] for i in rows], [other[i] for i in rows])
        found.append(values)
    return found


def _page(runs: tuple[Run, Run], pairs: list[Pair], sentences: Sentences) -> page.Page:
    texts = Texts()
    by = "" if sentences is None or isinstance(sentences, MissingResource) else sentences.name
    shared = _same_images(runs, pairs)
    start = {
        "mode": "compare", "chunk": CHUNK, "sides": short_names(runs), "others": [],
        "slots": [slots(run) for run in runs], "shared": shared,
        "regions": any(map(outlined, runs)),
        "layers": [_layer(runs, pair, texts) for pair in pairs], "texts": list(texts.numbers),
    }  # fmt: skip
    found = {
        (place, number, chunk): values
        for place, run in enumerate(runs[:1] if shared else runs)
        for number, pair in enumerate(pairs)
        for chunk, values in enumerate(details(run, pair.name, pair.units))
    }
    return page.Page("compare.html", _values(runs, pairs, by), start, found)


def short_names(runs: tuple[Run, Run]) -> list[str]:
    """What tells the two from each other: the parts that differ, else the folders' names."""
    parts = ("method", "target", "probe", "concepts", "encoder", "similarity")
    found = [[_name(run.run.get(part)) for part in parts] for run in runs]
    differ = [i for i in range(len(parts)) if found[0][i] != found[1][i]]
    names = [", ".join(own[i] for i in differ if own[i]) for own in found]
    known = [relative(name, roots_of(run)) or run.name
             for name, run in zip(names, runs, strict=True)]  # fmt: skip
    return known if known[0] != known[1] else [run.name for run in runs]


def _name(part: Any) -> str:
    return str(part.get("name", "")) if isinstance(part, dict) else str(part or "")


def _layer(runs: tuple[Run, Run], pair: Pair, texts: Texts) -> dict[str, Any]:
    known = [truths(run, pair.name, texts, pair.units) for run in runs]
    right = next((own["t"] for own in known if own), None)
    units = pair.units
    return {
        "name": pair.name, "units": units,
        "sides": [side(run, rows, texts) for run, rows in zip(runs, pair.rows, strict=True)],
        "same": [int(same) for same in pair.same], "near": [short(value) for value in pair.near],
        **({} if right is None else {"t": right, "k": [None] * len(units)}),
    }  # fmt: skip


def _values(runs: tuple[Run, Run], pairs: list[Pair], by: str) -> dict[str, Any]:
    near = np.concatenate([pair.near for pair in pairs])
    known = near[np.isfinite(near)]
    compared, same = len(near), sum(sum(pair.same) for pair in pairs)
    rights = {pair.name: [_right(run, pair) for run in runs] for pair in pairs}
    names = short_names(runs)
    heads = [
        {"tag": tag, "name": name, "warnings": warnings(run, overview(run)),
         "facts": [("Run", run.name), *header(run, len(run.descriptions))]}
        for tag, name, run in zip(TAGS, names, runs, strict=True)
    ]  # fmt: skip
    return {
        "body": "compare", "title": f"{names[0]} and {names[1]} - clipdissect",
        "kind": "CLIP-Dissect comparison", "heading": f"{names[0]} and {names[1]}",
        "sides": heads, "compared": compared, "same": same, "by": by,
        "mean": float(known.mean()) if len(known) else None,
        "histogram": histogram_of(pd.Series(known)) if len(known) else None,
        "pairing": _pairing(runs, pairs), "notes": notes_on_pictures(runs[0]), "made": "",
        "layers": [{"name": pair.name, "units": len(pair.units), "same": sum(pair.same),
                    "mean": pair.mean, "right": rights[pair.name]} for pair in pairs],
        "any_truth": any(right is not None for both in rights.values() for right in both),
        "words": f"cosine of their sentence embeddings ({by}); 1 is the same text." if by else
                 "no sentence encoder was at hand, so only equal texts are told.",
    }  # fmt: skip


def _right(run: Run, pair: Pair) -> tuple[int, int] | None:
    """How many of the pair's labels are the class's name, and how many are any of its names."""
    truth = truth_of(run, pair.name)
    if truth is None:
        return None
    is_compared = run.rows(pair.name)["unit"].isin(pair.units).to_numpy()
    exact, near = (truth[c][is_compared].sum() for c in ("right", "right_any_synonym"))
    return int(exact), int(near)


def _pairing(runs: tuple[Run, Run], pairs: list[Pair]) -> list[str]:
    """What isn't compared, and why."""
    names = {pair.name for pair in pairs}
    notes = []
    for tag, run in zip(TAGS, runs, strict=True):
        alone = [layer for layer in run.layers if layer not in names]
        if alone:
            listed = relative(", ".join(alone), roots_of(run))
            notes.append(f"Only in {tag}, and not compared: {listed}.")
    lost = 0
    for pair in pairs:
        units = [set(run.rows(pair.name)["unit"]) for run in runs]
        lost += len(set.union(*units)) - len(pair.units)
    if lost:
        notes.append(f"{lost:,} units that only one has, or that neither describes, are left out.")
    return notes


def _same_images(runs: tuple[Run, Run], pairs: list[Pair]) -> bool:
    """Whether both show the same top images, so that once is enough."""
    tables = []
    for run in runs:
        shown = run.top_images[run.top_images["layer"].isin([pair.name for pair in pairs])]
        if not len(shown):
            return False
        shown = shown[shown["rank"] <= slots(run)]
        tables.append(shown[["layer", "unit", "rank", "image"]].reset_index(drop=True))
    files = [run.material.pictures for run in runs]
    return tables[0].equals(tables[1]) and files[0] == files[1]


def _copy_pictures(run: Run, folder: Path) -> None:
    for file, *_ in run.material.pictures.values():
        source, path = run.folder / REPORT / THUMBNAILS / str(file), folder / THUMBNAILS / str(file)
        if source.is_file() and not path.is_file():
            with atomic(path) as temporary:
                shutil.copyfile(source, temporary)
