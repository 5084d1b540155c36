"""Which units changed their meaning between two checkpoints of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from clipdissect.capture.latents import digest_name
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation.vectors import Sentences, vectors
from clipdissect.explore.activations import layers_of
from clipdissect.explore.clear import are_clear
from clipdissect.explore.matching import INDEX, MATCHES, Matching, match_units
from clipdissect.results.describe import NULL
from clipdissect.results.flags import DEAD, has_flag
from clipdissect.store import Store
from clipdissect.utils.type_checks import check_choice

if TYPE_CHECKING:
    from clipdissect.explore.result import Result

SAME, SIMILAR, CHANGED = "same", "similar", "changed"
LOST, GAINED, UNCLEAR = "lost", "gained", "unclear"
DIED, ALIVE, DEAD_IN_BOTH = "died", "came alive", "dead"
UNMATCHED = "unmatched"
KINDS = (CHANGED, LOST, GAINED, DIED, ALIVE, UNMATCHED, SIMILAR, SAME, UNCLEAR, DEAD_IN_BOTH)

SYNONYMS = 0.6  # cosine of sentence embeddings from which two descriptions mean the same
OVERLAP = 0.5  # Jaccard index of the top images from which a unit responds to the same
LEAST_CORRELATION = 0.5  # of the activations of units that are the same
# Parts of a manifest in which two runs must agree for their descriptions to be comparable.
PARTS = ("method", "concepts", "encoder", "similarity")


@dataclass(frozen=True)
class Difference:
    """The units of two runs, matched, with what became of their meanings.

    Args:
        units: a row per unit of the first run that the second has, too: `layer, unit, other_unit`,
            `kind` (one of `KINDS`, see `diff`), `description, other_description`, `cosine` of the
            two (NaN without a sentence encoder), `rank_in_other` and `other_rank`: of a description
            among those that the other run lists (NaN if it isn't there), `image_overlap` (Jaccard
            index of the top images; NaN on other images), `similarity, other_similarity`, `margin`,
            `other_margin`, and `correlation` (NaN for `match="index"`).
        texts: `description, before, after, change`: how many units have a description, the largest
            changes first.
        notes: on what isn't compared, and on differences of the runs other than the network.
    """

    units: pd.DataFrame
    texts: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def changed(self) -> pd.DataFrame:
        """The units whose meaning changed; the largest changes first."""
        rows = self.units[self.units["kind"] == CHANGED]
        by = ["cosine", "image_overlap", "correlation"]
        ordered: pd.DataFrame = rows.sort_values(by, ignore_index=True, kind="stable")
        return ordered

    @property
    def layers(self) -> pd.DataFrame:
        """The number of units of each kind per layer."""
        counts = pd.crosstab(self.units["layer"], self.units["kind"])
        order = list(dict.fromkeys(self.units["layer"]))
        table: pd.DataFrame = counts.reindex(index=order, columns=list(KINDS), fill_value=0)
        return table

    @property
    def summary(self) -> str:
        """The differences in words: a line per layer, and the notes."""
        lines = [_in_words(str(layer), counts) for layer, counts in self.layers.iterrows()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Difference: {len(self.changed)} of {len(self.units)} units changed>"

    def _repr_html_(self) -> str:
        shown = ["layer", "unit", "other_unit", "description", "other_description", "cosine"]
        layers = self.layers.to_html()
        return f"{layers}{self.changed[[*shown, 'image_overlap']].head(20).to_html(index=False)}"


def diff(
    first: Result,
    second: Result,
    match: str = INDEX,
    sentences: Sentences = None,
    layer: str | None = None,
) -> Difference:
    """Compare the meanings of the units of two runs, as of two checkpoints of a network.

    A unit `changed` only if its descriptions differ, they aren't near-synonyms (cosine below
    `SYNONYMS`), neither is among the descriptions that the other run lists for the unit, its top
    images differ (overlap below `OVERLAP`) and both descriptions score above their null, the best
    score with shuffled images. It is `similar` where descriptions differ but one of the others
    holds, `lost` or `gained` where only the first or the second description is above its null,
    `unclear` where neither is, `unmatched` where no unit of the second run correlates with it by
    `LEAST_CORRELATION`, and `died`, `came alive` or `dead` where it doesn't vary.

    Args:
        match: `index`, the same units by number; or `correlation`: one-to-one, with the largest sum
            of Pearson correlations of their activations on the same images.
        sentences: a sentence encoder; None: descriptions are equal or not.
        layer: one of the layers that both have; all by default.

    Raises:
        DissectError: no layer or unit in common, or, for `correlation`, a result that knows no
            network, other images, or activations that aren't stored of all images.
    """
    check_choice("match", match, MATCHES)
    layers, notes = _common_layers(first, second, match, layer)
    same_images = _digest(first, "images") is not None and (
        _digest(first, "images") == _digest(second, "images")
    )
    notes += _notes(first, second, same_images)
    cosines = _Cosines.of(sentences, [first, second], layers, _store(first))
    tables = []
    for name in layers:
        matching = match_units(first, second, name, match)
        notes += matching.notes
        tables.append(_compared(first, second, name, matching, same_images, cosines))
    units = pd.concat(tables, ignore_index=True)
    if units.empty:
        raise DissectError("the two runs have no unit in common")
    return Difference(units, _texts(units), tuple(notes))


def _common_layers(
    first: Result, second: Result, match: str, layer: str | None
) -> tuple[list[str], list[str]]:
    """Return the layers that both runs have, or the one chosen, and notes on others."""
    if layer is not None:
        layers_of(second, layer)
        chosen = layers_of(first, layer)
        names = [chosen, chosen]
    else:
        names = [layers_of(result, None) for result in (first, second)]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        raise DissectError(
            f"the two runs have no layer in common: {', '.join(names[0])}; {', '.join(names[1])}"
        )
    notes = [
        f"only one run has layer {name}"
        for side, others in (names, names[::-1])
        for name in side
        if name not in others
    ]
    others = [name for name in common if match == INDEX and _latents_differ(first, second, name)]
    notes += [f"layer {name} isn't compared: its sparse autoencoders differ" for name in others]
    common = [name for name in common if name not in others]
    if not common:
        raise DissectError(
            "the layers that both runs have are of different sparse autoencoders, whose latents "
            "have other numbers: match them by correlation"
        )
    return common, notes


def _latents_differ(first: Result, second: Result, layer: str) -> bool:
    return bool(_digest(first, digest_name(layer)) != _digest(second, digest_name(layer)))


def _digest(result: Result, name: str) -> Any:
    return result.run.get("digests", {}).get(name)


def _notes(first: Result, second: Result, same_images: bool) -> list[str]:
    notes = []
    networks = [_digest(result, "target") for result in (first, second)]
    if networks[0] is not None and networks[0] == networks[1]:
        notes.append(
            "both runs are of the same network, so no unit changed: what is counted as changed is "
            "the noise of the descriptions"
        )
    differing = [part for part in PARTS if _part(first, part) != _part(second, part)]
    if not (first.run and second.run):
        notes.append("how a file's descriptions were made isn't known: it may explain differences")
    elif differing:
        notes.append(f"the runs differ in {', '.join(differing)}, which changes descriptions, too")
    if any(_digest(result, "images") is None for result in (first, second)):
        notes.append("not both runs' images are known, so their top images aren't compared")
    elif not same_images:
        notes.append("the runs are on other images, so their top images aren't compared")
    if not _have_nulls(first, second):
        notes.append("not both runs have null scores, so every description counts as clear")
    return notes


def _have_nulls(first: Result, second: Result) -> bool:
    return all(NULL in result.descriptions for result in (first, second))


def _part(result: Result, part: str) -> Any:
    return result.run.get(part)


def _store(result: Result) -> Store | None:
    return result.job.store if result.job else None


@dataclass(frozen=True)
class _Side:
    """One run's rows of the matched units, in their order."""

    rows: pd.DataFrame
    images: list[frozenset[str]]

    @classmethod
    def of(
        cls, result: Result, layer: str, units: Shaped[np.ndarray, " pairs"], has_null: bool
    ) -> _Side:
        rows = result.descriptions[result.descriptions["layer"] == layer]
        rows = rows.drop_duplicates("unit").set_index("unit").loc[units].reset_index()
        rows = rows if has_null else rows.drop(columns=NULL, errors="ignore")
        images = _images(result, layer)
        return cls(rows, [images.get(int(unit), frozenset()) for unit in units])

    @property
    def descriptions(self) -> list[str]:
        return [text if isinstance(text, str) else "" for text in self.rows["description"]]

    @property
    def dead(self) -> Bool[np.ndarray, " pairs"]:
        return has_flag(self.rows, DEAD)

    @property
    def clear(self) -> Bool[np.ndarray, " pairs"]:
        return are_clear(self.rows)

    def numbers(self, column: str) -> Float[np.ndarray, " pairs"]:
        if column not in self.rows:
            return np.full(len(self.rows), np.nan)
        return self.rows[column].to_numpy(dtype=np.float64)

    def ranks(self, texts: Sequence[str]) -> Float[np.ndarray, " pairs"]:
        """Return the rank of each text among the unit's descriptions, from 1; NaN if absent."""
        columns = ["description"]
        while f"description_{len(columns) + 1}" in self.rows:
            columns.append(f"description_{len(columns) + 1}")
        ranks = np.full(len(self.rows), np.nan)
        wanted = np.array(texts, dtype=object)
        for rank, column in reversed(list(enumerate(columns, 1))):
            ranks[(self.rows[column].to_numpy(dtype=object) == wanted) & (wanted != "")] = rank
        return ranks


def _images(result: Result, layer: str) -> dict[int, frozenset[str]]:
    """Return each unit's top images, without those of activation 0, which are arbitrary."""
    table = result.top_images
    table = table[(table["layer"] == layer) & (table["activation"].astype(float) != 0)]
    return {int(unit): frozenset(names) for unit, names in table.groupby("unit")["image"]}


def _compared(
    first: Result,
    second: Result,
    layer: str,
    matching: Matching,
    same_images: bool,
    cosines: _Cosines,
) -> pd.DataFrame:
    has_null = _have_nulls(first, second)  # else one side alone would be called unclear
    a = _Side.of(first, layer, matching.first, has_null)
    b = _Side.of(second, layer, matching.second, has_null)
    pairs = zip(a.images, b.images, strict=True)
    overlap = np.array([_jaccard(x, y) if same_images else np.nan for x, y in pairs], dtype=float)
    table = pd.DataFrame(
        {
            "layer": layer,
            "unit": matching.first,
            "other_unit": matching.second,
            "kind": "",
            "description": a.descriptions,
            "other_description": b.descriptions,
            "cosine": cosines.between(a.descriptions, b.descriptions),
            "rank_in_other": b.ranks(a.descriptions),
            "other_rank": a.ranks(b.descriptions),
            "image_overlap": overlap,
            "similarity": a.numbers("similarity"),
            "other_similarity": b.numbers("similarity"),
            "margin": a.numbers("margin"),
            "other_margin": b.numbers("margin"),
            "correlation": matching.correlation,
        }
    )
    with_kinds: pd.DataFrame = table.assign(kind=_kinds(table, a, b))
    return with_kinds


def _kinds(table: pd.DataFrame, a: _Side, b: _Side) -> Shaped[np.ndarray, " pairs"]:
    equal = table["description"] == table["other_description"]
    listed = table["rank_in_other"].notna() | table["other_rank"].notna()
    alike = listed | (table["cosine"] >= SYNONYMS) | (table["image_overlap"] >= OVERLAP)
    conditions: Mapping[str, Any] = {
        DEAD_IN_BOTH: a.dead & b.dead,
        DIED: ~a.dead & b.dead,
        ALIVE: a.dead & ~b.dead,
        UNMATCHED: table["correlation"] < LEAST_CORRELATION,
        SAME: equal & (table["description"] != ""),
        UNCLEAR: ~a.clear & ~b.clear,
        SIMILAR: alike,
        LOST: a.clear & ~b.clear,
        GAINED: ~a.clear & b.clear,
    }
    kinds: Shaped[np.ndarray, " pairs"] = np.select(
        [np.asarray(condition) for condition in conditions.values()], list(conditions), CHANGED
    )
    return kinds


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    union = len(first | second)
    return len(first & second) / union if union else float("nan")


@dataclass(frozen=True)
class _Cosines:
    """Cosines of the sentence embeddings of descriptions."""

    embeddings: Any  # Vectors, or None

    @classmethod
    def of(
        cls, sentences: Sentences, runs: Sequence[Result], layers: Sequence[str], store: Any
    ) -> _Cosines:
        if sentences is None or isinstance(sentences, MissingResource):
            return cls(None)
        tables = [r.descriptions[r.descriptions["layer"].isin(layers)] for r in runs]
        texts = {text for table in tables for text in table["description"] if text}
        return cls(vectors(sentences, [sorted(texts)], store))

    def between(self, first: Sequence[str], second: Sequence[str]) -> Float[np.ndarray, " pairs"]:
        """Return the cosine of each pair of descriptions; NaN where one is missing."""
        cosines = np.full(len(first), np.nan)
        both = [n for n in range(len(first)) if first[n] and second[n]]
        if self.embeddings is not None and both:
            sides = [[side[n] for n in both] for side in (first, second)]
            cosines[both] = self.embeddings.cosines(*sides)
        return cosines


def _texts(units: pd.DataFrame) -> pd.DataFrame:
    """Count the units of each description in both runs."""
    before, after = (Counter(units[c]) for c in ("description", "other_description"))
    texts = [text for text in before | after if text]
    table = pd.DataFrame(
        {
            "description": texts,
            "before": [before[text] for text in texts],
            "after": [after[text] for text in texts],
        }
    )
    table["change"] = table["after"] - table["before"]
    order = table["change"].abs().sort_values(ascending=False, kind="stable").index
    sorted_table: pd.DataFrame = table.loc[order].reset_index(drop=True)
    return sorted_table


def _in_words(layer: str, counts: pd.Series[Any]) -> str:
    """Return a layer's line, such as `layer4: 512 units, 80 changed (16 %), 3 died`."""
    total = int(counts.sum())
    parts = [f"{layer}: {total} units"]
    for kind in KINDS:
        count = int(counts[kind])
        if count or kind == CHANGED:
            share = f" ({100 * count / total:.0f} %)" if kind == CHANGED else ""
            parts.append(f"{count} {kind}{share}")
    return ", ".join(parts)
