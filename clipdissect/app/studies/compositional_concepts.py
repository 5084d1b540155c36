"""A layer's best words and phrases: search, evaluation, figure and panels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.app.printing import with_interval
from clipdissect.app.studies.base import StudyRun, top_images
from clipdissect.capture.activations import dead_units, for_scoring
from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.errors import DissectError
from clipdissect.results.describe import scored_units
from clipdissect.similarity.inputs import ConceptActivations
from clipdissect.studies import compositional_concepts as library
from clipdissect.studies import figures
from clipdissect.studies.compositional_concepts import Phrases
from clipdissect.studies.features import Features
from clipdissect.studies.numbers import share
from clipdissect.utils.figures import save_figure

# Name in the metrics: column of the table, label in the figure.
LABELLINGS = {
    "words": ("word", "best word"),
    "phrases": ("phrase", "best phrase"),
    "either": ("either", "better scored\nof both"),
    "joined": ("joined", "two best\nwords"),
    "random": ("random", "two random\nof its words"),
}


def search_layer(
    run: StudyRun, features: Features, layer: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the best words and phrases per living unit, and the cost of the search."""
    job, scoring = run.job, run.job.settings.scoring_device
    activations = features.captured.activations[layer].to(scoring)
    live = scored_units(dead_units(activations), job.similarity)
    if not live.any():
        raise DissectError(f"no unit of layer {layer} varies over the probe")
    q, encoder = for_scoring(activations, live), job.encoder
    concepts = ConceptActivations(features.captured.image_embeds, features.texts).to(scoring)
    best = job.similarity.top(concepts, q, run.settings.words)

    def embed(texts: Any) -> Any:
        settings = job.settings
        how = settings.torch_device, settings.text_precision
        return text_embeddings(encoder.embed_texts, encoder.text_digest, texts, job.store, *how)

    texts = job.concepts.texts
    phrases = library.search(run.settings, job.similarity, concepts, q, best, texts, embed, job.top)
    units = live.nonzero()[:, 0][: len(phrases.texts)].tolist()
    table = _table(layer, units, best, phrases, texts, run.resampling.seed)
    higher = (table["phrase_score"] > table["word_score"]).to_numpy()
    comparable = run.settings.normaliser == "concepts"
    if comparable:
        table.insert(6, "either", table["phrase"].where(higher, table["word"]))
    return table, {
        "units": len(units),
        "distinct_phrases": phrases.tried,
        "scored": phrases.pairs,
        "phrases_per_second": phrases.rate,
        "seconds": phrases.seconds,
        "normaliser": run.settings.normaliser,
        "phrase_scores_higher": share(higher, run.resampling) if comparable else None,
    }


def _table(
    layer: str, units: list[int], best: Any, phrases: Phrases, texts: Any, seed: int
) -> pd.DataFrame:
    words = best.concepts[: len(units)].cpu().numpy()
    generator = np.random.default_rng(seed)
    random = [generator.permutation(row)[:2] for row in words]
    columns = {
        "layer": layer,
        "unit": units,
        "word": [texts[i] for i in words[:, 0]],
        "word_score": best.scores[: len(units), 0].cpu().numpy(),
        "phrase": [unit_phrases[0] for unit_phrases in phrases.texts],
        "phrase_score": phrases.scores[:, 0],
        "joined": [" ".join(texts[i] for i in row[:2]) for row in words],
        "random": [" ".join(texts[i] for i in pair) for pair in random],
    }
    for n in range(1, min(map(len, phrases.texts))):
        columns[f"phrase_{n + 1}"] = [unit_phrases[n] for unit_phrases in phrases.texts]
        columns[f"phrase_score_{n + 1}"] = phrases.scores[:, n]
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def evaluate(run: StudyRun, table: pd.DataFrame) -> dict[str, Any]:
    """Add class names and their cosines to the table; return means and differences."""
    names = [run.truth.names[unit] for unit in table["unit"]]
    table.insert(2, "truth", names)
    columns = {name: column for name, (column, _) in LABELLINGS.items() if column in table}
    labels = [text for column in columns.values() for text in table[column]]
    vectors, reasons = run.embed(run.truth.names, labels)
    metrics: dict[str, Any] = {name: {"reason": reason} for name, reason in reasons.items()}
    for encoder, embeddings in vectors.items():
        cosines = {n: embeddings.cosines(list(table[c]), names) for n, c in columns.items()}
        for name, column in columns.items():
            table[f"{column}_{encoder}_cos"] = cosines[name]
        metrics[encoder] = library.compared(cosines, run.resampling)
    return {name: metrics[name] for name in run.sentences}


def print_layer(layer: str, metrics: Mapping[str, Any]) -> None:
    print(
        f"{layer}: {metrics['units']} units, {metrics['distinct_phrases']} distinct phrases, "
        f"{metrics['phrases_per_second']:.0f} a second"
    )
    if higher := metrics["phrase_scores_higher"]:
        print(f"  a phrase scores higher than every word: {with_interval(higher['value'], higher)}")
    for encoder, labellings in metrics.get("judged", {}).items():
        for name, values in labellings.items():
            if name != "reason":
                print(f"  {encoder}, {name}: {with_interval(values['value'], values)}")


def draw(judged: Mapping[str, Any], folder: Path) -> None:
    """Draw mean cosines, and differences to the words', by sentence encoder."""
    for encoder, metrics in judged.items():
        if "reason" in metrics:
            continue
        drawn, (left, right) = figures.plot(8.4, 3.4, 2)
        for axis, suffix in ((left, ""), (right, "_minus_words")):
            names = [name for name in LABELLINGS if f"{name}{suffix}" in metrics]
            values = [metrics[f"{name}{suffix}"] for name in names]
            style = {"linestyle": "none", "marker": "o", "color": "black", "markersize": 4}
            heights, errors = figures.heights(values), figures.bar_errors(values)
            axis.errorbar(range(len(names)), heights, yerr=errors, capsize=3, **style)
            labels = [LABELLINGS[name][1] for name in names]
            axis.set_xticks(range(len(names)), labels, fontsize="x-small")
            axis.margins(x=0.12)
            axis.grid(axis="y", color="0.9")
        left.set_ylabel(f"cosine to the class name ({encoder})", fontsize="small")
        right.set_ylabel("minus the best word's", fontsize="small")
        right.axhline(0, color="0.4", linestyle="--", linewidth=0.8)
        save_figure(drawn, folder, f"compositional_concepts_{encoder}")


def save_panels(run: StudyRun, features: Features, table: pd.DataFrame, layer: str) -> None:
    """Draw the units whose phrase has the best score, or gains most over their word."""
    comparable = run.settings.normaliser == "concepts"
    captured, count = features.captured, run.settings.panel_images
    top = top_images(layer, captured.activations[layer], captured.images, count)
    panels = []
    for _, row in ranked(table, comparable).head(run.settings.panels).iterrows():
        head = f"{layer}, unit {row['unit']}" + (f": {row['truth']}" if "truth" in row else "")
        score = f" ({row['word_score']:.2f})" if comparable else ""
        phrase = f"phrase: {row['phrase']} ({row['phrase_score']:.2f})"
        lines = ((head, False), (f"word: {row['word']}{score}", False), (phrase, True))
        panels.append(figures.Panel(lines, top.get(row["unit"], ())))
    run.save_panels(panels, "best words and best phrases", f"panels_{layer}")


def ranked(table: pd.DataFrame, comparable: bool) -> pd.DataFrame:
    """Sort by the gain over the word or, unless `comparable`, by the phrase's score."""
    gain = table["phrase_score"] - (table["word_score"] if comparable else 0.0)
    order = (-gain.to_numpy(dtype=float)).argsort(kind="stable")
    frame: pd.DataFrame = table.iloc[order]
    return frame
