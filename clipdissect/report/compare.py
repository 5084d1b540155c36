"""Build a page that compares runs unit by unit, from their files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from clipdissect.capture.latents import digest_name
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation.layers import is_of_latents
from clipdissect.evaluation.vectors import Sentences, Vectors, vectors
from clipdissect.report.build import has_regions, picture_slots, short_name
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
)
from clipdissect.report.report_data import REPORT, THUMBNAILS, rounded
from clipdissect.report.run import Run, load
from clipdissect.report.scores import names_of, page_scores, score_of, side_scores
from clipdissect.results.sweeps import job_folders
from clipdissect.store import Store
from clipdissect.utils.files import atomic

PARTS = ("method", "target", "probe", "concepts", "encoder", "similarity")
MOST_RUNS = 12


@dataclass(frozen=True)
class SharedLayer:
    """A layer of all runs, restricted to common units that at least one run describes.

    `rows` has a table per run. `cosines` are of two runs' descriptions, for each of
    `combinations(runs, 2)`; NaN if one is missing or there is no encoder.
    """

    name: str
    rows: tuple[pd.DataFrame, ...]
    cosines: Float[np.ndarray, "pairs units"]

    @property
    def units(self) -> list[int]:
        return [int(unit) for unit in self.rows[0]["unit"]]

    @property
    def same(self) -> list[int]:
        """1 where all descriptions are equal, else 0."""
        texts = np.stack([rows["description"].to_numpy(dtype=object) for rows in self.rows])
        return [int(equal) for equal in (texts == texts[0]).all(axis=0)]

    @property
    def near(self) -> Float[np.ndarray, " units"]:
        """The mean of the known cosines; NaN if there are none."""
        known = np.isfinite(self.cosines)
        counts = known.sum(axis=0)
        means = np.where(known, self.cosines, 0).sum(axis=0) / np.maximum(counts, 1)
        return np.where(counts > 0, means, np.nan)


@dataclass(frozen=True)
class Comparison:
    """Runs, the layers that all of them have, and the name of the sentence encoder, if any."""

    runs: tuple[Run, ...]
    layers: list[SharedLayer]
    encoder: str

    @classmethod
    def of(
        cls, paths: Iterable[str | Path], sentences: Sentences = None, store: Store | None = None
    ) -> Comparison:
        """Read runs' folders, files of labels, and all jobs of multiruns' folders.

        Without `sentences`, only equality of descriptions is known. Raise a DissectError if there
        are fewer than two or more than `MOST_RUNS` runs, or if they have no unit in common.
        """
        folders = [run for path in paths for run in _expand(path)]
        if not 2 <= len(folders) <= MOST_RUNS:
            names = ", ".join(map(str, folders[:MOST_RUNS])) or "none"
            raise DissectError(
                f"a comparison takes 2 to {MOST_RUNS} runs; got {len(folders)}: {names}"
            )
        runs = tuple(map(load, folders))
        encoder = None if isinstance(sentences, MissingResource) else sentences
        return cls(runs, _shared_layers(runs, encoder, store), encoder.name if encoder else "")

    @property
    def tags(self) -> list[str]:
        return [chr(ord("A") + number) for number in range(len(self.runs))]

    @property
    def names(self) -> list[str]:
        """The parts in which each run differs from the others, else the folders' names."""
        parts = [[_part_name(run.run.get(part)) for part in PARTS] for run in self.runs]
        # A file of labels has no parts, which doesn't make those of the runs differ.
        known = [values for run, values in zip(self.runs, parts, strict=True) if run.run]
        is_same = [len({values[n] for values in known}) <= 1 for n in range(len(PARTS))]
        names = []
        for run, values in zip(self.runs, parts, strict=True):
            differing = [v for v, same in zip(values, is_same, strict=True) if v and not same]
            name = shorten_paths(", ".join(differing), known_folders(run))
            names.append(name or short_name(run))
        return names if len(set(names)) == len(names) else [short_name(run) for run in self.runs]

    @property
    def units(self) -> int:
        return sum(len(layer.units) for layer in self.layers)

    @property
    def same(self) -> int:
        """Number of units with the same description in all runs."""
        return sum(sum(layer.same) for layer in self.layers)

    @property
    def near(self) -> float | None:
        return _mean(np.concatenate([layer.near for layer in self.layers]))

    def pairs(self) -> list[list[tuple[int, float | None]]]:
        """Return units with equal descriptions, and the mean cosine, of each run and each other."""
        count = len(self.runs)
        numbers = {pair: n for n, pair in enumerate(combinations(range(count), 2))}
        table: list[list[tuple[int, float | None]]] = [
            [(self.units, 1.0)] * count for _ in self.runs
        ]
        for (a, b), number in numbers.items():
            texts = [[layer.rows[side]["description"] for side in (a, b)] for layer in self.layers]
            equal = sum(int((first == second).sum()) for first, second in texts)
            mean = _mean(np.concatenate([layer.cosines[number] for layer in self.layers]))
            table[a][b] = table[b][a] = equal, mean
        return table

    def write(self, out: str | Path, single_file: bool = False, megabytes: float = 30.0) -> Path:
        """Write the page and return its path; raise a DissectError if `out` has a foreign page."""
        folder = Path(out).expanduser()
        check_folder(folder)
        page = _page(self)
        for run in self.runs:
            _copy_thumbnails(run, folder)
        return page.write(folder, single_file, megabytes)


def compare(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    sentences: Sentences = None,
    store: Store | None = None,
    single_file: bool = False,
    megabytes: float = 30.0,
) -> Path:
    """Write a page that shows runs side by side, changed labels first; return its path.

    Args:
        runs: folders of runs, files of labels, and folders of multiruns, whose jobs are meant.
        out: the page's folder.
        sentences, store: see `Comparison.of`.
        single_file, megabytes: see `build`.

    Raises:
        DissectError: see `Comparison.of`; or `out` has a foreign `index.html`.
    """
    check_folder(Path(out).expanduser())  # before the slow part
    return Comparison.of(runs, sentences, store).write(out, single_file, megabytes)


def _expand(path: str | Path) -> list[Path]:
    """Return the described jobs of a multirun's folder, or the path itself."""
    left_out = undescribed_jobs(path)
    return [job for job in _jobs(path) if job not in left_out] or [Path(path).expanduser()]


def undescribed_jobs(path: str | Path) -> list[Path]:
    """Return the jobs of a multirun's folder that a comparison leaves out: failed ones."""
    return [job for job in _jobs(path) if not (job / "descriptions.csv").is_file()]


def _jobs(path: str | Path) -> list[Path]:
    folder = Path(path).expanduser()
    is_run = not folder.is_dir() or (folder / "descriptions.csv").is_file()
    return [] if is_run else job_folders(folder)


def _shared_layers(
    runs: Sequence[Run], sentences: Sentences, store: Store | None
) -> list[SharedLayer]:
    shared = [layer for layer in _common_layers(runs) if not _latents_differ(runs, layer)]
    tables = {layer: _common_rows(runs, layer) for layer in shared}
    tables = {layer: rows for layer, rows in tables.items() if len(rows[0])}
    if not tables:
        layers = "; ".join(f"{run.name} has layers {', '.join(run.layers)}" for run in runs)
        raise DissectError(f"the runs have no described unit in common: {layers}")
    embeddings = None
    if sentences is not None and not isinstance(sentences, MissingResource):
        texts = {text for rows in tables.values() for side in rows for text in side["description"]}
        embeddings = vectors(sentences, [sorted(filter(None, texts))], store)
    return [
        SharedLayer(
            layer, rows, np.stack([_cosines(*p, embeddings) for p in combinations(rows, 2)])
        )
        for layer, rows in tables.items()
    ]


def _common_layers(runs: Sequence[Run]) -> list[str]:
    return [layer for layer in runs[0].layers if all(layer in run.layers for run in runs)]


def _latents_differ(runs: Sequence[Run], layer: str) -> bool:
    """Return whether a layer's units are latents of several autoencoders, whose numbers differ."""
    return len({run.run.get("digests", {}).get(digest_name(layer)) for run in runs}) > 1


def _common_rows(runs: Sequence[Run], layer: str) -> tuple[pd.DataFrame, ...]:
    tables = [run.rows(layer).drop_duplicates("unit").set_index("unit") for run in runs]
    units = tables[0].index
    for table in tables[1:]:
        units = units.intersection(table.index)
    tables = [table.loc[units.sort_values()] for table in tables]
    described = np.any([table["description"] != "" for table in tables], axis=0)
    return tuple(table[described].reset_index() for table in tables)


def _cosines(
    first: pd.DataFrame, second: pd.DataFrame, embeddings: Vectors | None
) -> Float[np.ndarray, " units"]:
    texts, others = (side["description"].to_numpy(dtype=object) for side in (first, second))
    cosines = np.full(len(texts), np.nan)
    described = (texts != "") & (others != "")
    if embeddings is not None and described.any():
        cosines[described] = embeddings.cosines(list(texts[described]), list(others[described]))
    return cosines


def _page(compared: Comparison) -> Page:
    runs, layers, texts = compared.runs, compared.layers, TextTable()
    shared = _same_images(runs, layers)
    start = {
        "mode": "compare",
        "chunk": CHUNK,
        "sides": compared.names,
        "others": [],
        "slots": [picture_slots(run) for run in runs],
        "shared": shared,
        "regions": any(map(has_regions, runs)),
        "scores": page_scores(runs),
        "layers": [_layer_of_all(runs, layer, texts) for layer in layers],
        "texts": list(texts.numbers),
    }
    chunks = {
        (side, number, chunk): values
        for side, run in enumerate(runs[:1] if shared else runs)
        for number, layer in enumerate(layers)
        for chunk, values in enumerate(details(run, layer.name, layer.units))
    }
    return Page("compare.html", _template_values(compared), start, chunks)


def _part_name(part: Any) -> str:
    return str(part.get("name", "")) if isinstance(part, dict) else str(part or "")


def _layer_of_all(runs: Sequence[Run], layer: SharedLayer, texts: TextTable) -> dict[str, Any]:
    truths = [ground_truth(run, layer.name, texts, layer.units) for run in runs]
    class_names = next((truth["t"] for truth in truths if truth), None)
    truth = {} if class_names is None else {"t": class_names, "k": [None] * len(layer.units)}
    sides, names = zip(runs, layer.rows, strict=True), names_of(runs)
    return {
        "name": layer.name,
        "units": layer.units,
        "sides": [
            descriptions(run, rows, texts) | side_scores(run, rows, names, texts)
            for run, rows in sides
        ],
        "same": layer.same,
        "near": [rounded(value) for value in layer.near],
        **truth,
    }


def _template_values(compared: Comparison) -> dict[str, Any]:
    runs, names = compared.runs, compared.names
    heading = " and ".join(names) if len(names) == 2 else f"{names[0]} and {len(names) - 1} more"
    rows = [_layer_row(runs, layer) for layer in compared.layers]
    near = np.concatenate([layer.near for layer in compared.layers])
    return {
        "body": "compare",
        "title": f"{heading} - clipdissect",
        "kind": f"Comparison of {len(runs)} runs",
        "heading": heading,
        "sides": [_side(*side) for side in zip(compared.tags, names, runs, strict=True)],
        "compared": compared.units,
        "same": compared.same,
        "by": compared.encoder,
        "mean": compared.near,
        "pairs": compared.pairs(),
        "histogram": histogram_of(pd.Series(near)),
        "pairing": _pairing_notes(compared),
        "notes": picture_notes(runs[0]),
        "made": "",
        "layers": rows,
        "has_latents": any(is_of_latents(side) for layer in compared.layers for side in layer.rows),
        "has_meanings": any(len(run.meanings) for run in runs),
        "scores": [score_of(name) for name in names_of(runs)],
        "any_truth": any(right is not None for row in rows for right in row["right"]),
        "words": _similarity_definition(len(runs), compared.encoder),
    }


def _side(tag: str, name: str, run: Run) -> dict[str, Any]:
    facts = [("Run", short_name(run)), *header(run, len(run.descriptions))]
    return {"tag": tag, "name": name, "warnings": warnings(run, overview(run)), "facts": facts}


def _similarity_definition(runs: int, encoder: str) -> str:
    if not encoder:
        return "no sentence encoder was available, so only equal texts are counted."
    pairs = ", the mean over pairs of runs" if runs > 2 else ""
    return f"cosine of their sentence embeddings ({encoder}){pairs}; 1 is the same text."


def _layer_row(runs: Sequence[Run], layer: SharedLayer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "units": len(layer.units),
        "same": sum(layer.same),
        "mean": _mean(layer.near),
        "right": [correct_counts(run, layer) for run in runs],
    }


def _mean(cosines: Float[np.ndarray, " units"]) -> float | None:
    known = cosines[np.isfinite(cosines)]
    return float(known.mean()) if len(known) else None


def correct_counts(run: Run, layer: SharedLayer) -> tuple[int, int] | None:
    """Return how many labels are the class name, and how many are any of its synonyms."""
    truth = run.ground_truth(layer.name)
    if truth is None:
        return None
    is_compared = run.rows(layer.name)["unit"].isin(layer.units).to_numpy()
    exact, synonym = (truth[c][is_compared].sum() for c in ("right", "right_any_synonym"))
    return int(exact), int(synonym)


def _pairing_notes(compared: Comparison) -> list[str]:
    runs, common = compared.runs, _common_layers(compared.runs)
    only: dict[str, list[str]] = {}  # layers by the tags of the runs that have them
    for layer in dict.fromkeys(layer for run in runs for layer in run.layers):
        if layer not in common:
            tags = [t for t, run in zip(compared.tags, runs, strict=True) if layer in run.layers]
            only.setdefault(", ".join(tags), []).append(layer)
    folders = [folder for run in runs for folder in known_folders(run)]
    notes = [
        f"Only in {tags}, and not compared: {shorten_paths(', '.join(layers), folders)}."
        for tags, layers in only.items()
    ]
    others = [layer for layer in common if _latents_differ(runs, layer)]
    if others:
        notes.append(
            f"Not compared, as the runs have different sparse autoencoders: {', '.join(others)}."
        )
    left_out = 0
    for shared in compared.layers:
        units = [set(run.rows(shared.name)["unit"]) for run in runs]
        left_out += len(set.union(*units)) - len(shared.units)
    if left_out:
        notes.append(
            f"{left_out:,} units that a run lacks, or that no run describes, are left out."
        )
    return notes


def _same_images(runs: Sequence[Run], layers: Sequence[SharedLayer]) -> bool:
    """Return whether all have the same top images, so that one set is enough."""
    tables = []
    for run in runs:
        rows = run.top_images[run.top_images["layer"].isin([layer.name for layer in layers])]
        if not len(rows):
            return False
        rows = rows[rows["rank"] <= picture_slots(run)]
        tables.append(rows[["layer", "unit", "rank", "image"]].reset_index(drop=True))
    pictures = [run.report_data.pictures for run in runs]
    return all(table.equals(tables[0]) for table in tables) and all(
        own == pictures[0] for own in pictures
    )


def _copy_thumbnails(run: Run, folder: Path) -> None:
    for file, *_ in run.report_data.pictures.values():
        source = run.folder / REPORT / THUMBNAILS / str(file)
        path = folder / THUMBNAILS / str(file)
        if source.is_file() and not path.is_file():
            with atomic(path) as temporary:
                shutil.copyfile(source, temporary)
