#!/usr/bin/env python
"""Compare the labels of a sparse autoencoder's latents with those of a layer's neurons.

    python scripts/sae_against_neurons.py IMAGE_FOLDER ... --out results/offline/sae

One half of the images trains the autoencoder and labels all units; the other half, which neither
has seen, measures how well a label's image scores predict its unit. Needs the extra `offline`.
Writes units.csv, metrics.json, table.md, units.svg and run.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import train_small_sae as training
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

import clipdissect
from clipdissect import concepts as concept_sets
from clipdissect import encoder as encoders
from clipdissect import targets
from clipdissect.app.console import markdown_table
from clipdissect.capture.capture import capture
from clipdissect.capture.settings import Settings
from clipdissect.dissection import embed_concepts
from clipdissect.evaluation import Resampling, share_interval
from clipdissect.evaluation.bootstrap import mean_difference, mean_interval
from clipdissect.probe import Probe
from clipdissect.results.coherence import clarity, monosemanticity
from clipdissect.results.describe import NULL
from clipdissect.results.flags import COLUMN, DEAD, RARE
from clipdissect.results.manifest import environment
from clipdissect.results.run_files import write_json, write_table
from clipdissect.sae import resolve
from clipdissect.similarity import top_images
from clipdissect.store import Store
from clipdissect.utils.figures import save_figure
from clipdissect.utils.files import write_text
from clipdissect.utils.paths import store_dir

EMBEDDER = "efficientnet_lite1"  # for clarity: neither has the units nor labels them
KINDS = NEURONS, LATENTS, RANDOM = "neurons", "latents", "random latents"
SUMMARIES = ("mean", "max")  # over positions: the defaults of neurons and of latents
GOOD = 0.7  # AUC from which labels are counted as predictive
METRICS = ("clarity", "monosemanticity", "auc", "auc_gain", "r", "r_gain")


@dataclass(frozen=True)
class Inputs:
    """The halves of the images, and the settings."""

    described: Probe
    held_out: Probe
    options: argparse.Namespace
    store: Store
    encoder: Any

    @property
    def layer(self) -> str:
        return str(self.options.layer)


@dataclass(frozen=True)
class Group:
    """Units to compare: neurons or latents of a target's layer, by one summary."""

    name: str
    target: targets.Target
    summary: str
    # On the held-out images:
    activations: Float[Tensor, "images units"]
    top: Int[Tensor, "k units"]
    embeds: Float[Tensor, "images dims"]  # the encoder's

    @property
    def has_latents(self) -> bool:
        return bool(self.target.saes)


def main() -> None:
    options = parsed()
    start = time.perf_counter()
    inputs = inputs_of(options)
    target = targets.build("efficientnet_lite0", layers=[options.layer])
    trained, control, fits = autoencoders(target, inputs)
    saes = {NEURONS: None, LATENTS: trained, RANDOM: control}
    groups = [
        group_of(kind, target.with_sae(resolve(sae)) if sae else target, summary, inputs)
        for summary in SUMMARIES
        for kind, sae in saes.items()
    ]
    units = pd.concat([measured(group, inputs) for group in groups], ignore_index=True)
    metrics = {"fit": fits} | summary_of(units, options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "units.csv", units.round(4))
    write_json(options.out / "metrics.json", metrics)
    write_text(options.out / "table.md", tables(metrics))
    draw(units, options)
    write_json(options.out / "run.json", facts(inputs, time.perf_counter() - start))
    print(tables(metrics))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    training.add_options(parser)
    parser.add_argument("--concepts", nargs="+", default=["imagenet", "wordfreq_20k"])
    parser.add_argument("--top-k", type=int, default=20, help="of soft_wpmi, clarity and AUC")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("results/offline/sae"))
    return parser.parse_args()


def inputs_of(options: argparse.Namespace) -> Inputs:
    images = training.union_of(options.folders or training.default_folders(), options.limit)
    order = np.random.default_rng(options.seed).permutation(len(images))
    first, second = (np.sort(half).tolist() for half in np.array_split(order, 2))
    encoder = encoders.build("conse")
    store = Store(store_dir())
    return Inputs(images.subset(first), images.subset(second), options, store, encoder)


def autoencoders(
    target: targets.Target, inputs: Inputs
) -> tuple[training.TopKSae, training.TopKSae, dict[str, Any]]:
    """Train on the described half; return it, one with random directions, and the fits."""
    tokens = partial(training.tokens_of, target, inputs.layer, settings=Settings(device="cpu"))
    seen, unseen = tokens(inputs.described), tokens(inputs.held_out)
    recipe = training.recipe_of(inputs.options)
    x = seen.flatten(0, 1)
    trained = training.train(x, recipe)
    control = training.random_sae(x.mean(0), replace(recipe, seed=recipe.seed + 1))
    fits = {
        LATENTS: {
            "described": training.fit(trained, seen),
            "held_out": training.fit(trained, unseen),
        }
    }
    fits[RANDOM] = {"held_out": training.fit(control, unseen)}
    del fits[RANDOM]["held_out"]["explained_variance"]  # its decoder was fitted to nothing
    return trained, control, fits


def settings_of(summary: str, keep: str = "auto") -> Settings:
    return Settings(device="cpu", summary=summary, keep=keep)  # type: ignore[arg-type]


def group_of(kind: str, target: targets.Target, summary: str, inputs: Inputs) -> Group:
    """Capture a group's activations on the held-out half."""
    captured = capture(
        target,
        target.layers,
        inputs.encoder,
        inputs.held_out,
        inputs.store,
        settings_of(summary, "full"),
    )
    activations = captured.activations[target.layers[0]]
    assert isinstance(activations, Tensor)  # keep=full
    top = top_images(activations, inputs.options.top_k).indices
    return Group(f"{kind}, {summary}", target, summary, activations, top, captured.image_embeds)


def measured(group: Group, inputs: Inputs) -> pd.DataFrame:
    """Return one row per unit: its labels and how well they predict it, clarity, counts."""
    embeds = embeddings(inputs)
    active = group.activations.gather(0, group.top) > 0 if group.has_latents else None
    columns: dict[str, Any] = {"group": group.name, "unit": range(group.activations.shape[1])}
    columns["fires_held_out"] = (group.activations > 0).sum(0).numpy()
    columns["clarity"] = clarity(embeds, group.top, active).numpy()
    columns["monosemanticity"] = monosemanticity(embeds, group.activations).numpy()
    table = pd.DataFrame(columns)
    for name in inputs.options.concepts:
        table = table.join(labelled(group, name, inputs))
    return table


def embeddings(inputs: Inputs) -> Float[Tensor, "images dims"]:
    """Return another network's features of the held-out images, less the mean of each folder."""
    embedder = targets.build(EMBEDDER, layers=["global_pool"])
    probe, settings = inputs.held_out, settings_of("auto", "full")
    captured = capture(embedder, embedder.layers, None, probe, inputs.store, settings)
    embeds = captured.activations["global_pool"]
    assert isinstance(embeds, Tensor)  # keep=full
    folders = {image: probe.origin(i) for i, image in enumerate(probe.images)}
    return centred_by_folder(embeds, [folders[image] for image in captured.images])


def centred_by_folder(
    embeds: Float[Tensor, "images dims"], folders: Sequence[str]
) -> Float[Tensor, "images dims"]:
    """Subtract the mean of each folder's images.

    Random images then have a clarity of 0, and images aren't alike by their folder's resolution.
    """
    result = torch.empty_like(embeds)
    for folder in set(folders):
        rows = torch.tensor([name == folder for name in folders])
        result[rows] = embeds[rows] - embeds[rows].mean(0)
    return result


def labelled(group: Group, name: str, inputs: Inputs) -> pd.DataFrame:
    """Label the units on the described half; return the labels and their scores as columns."""
    top_k = inputs.options.top_k
    words = concept_sets.build(name)
    result = clipdissect.dissect(
        group.target,
        probe=inputs.described,
        concepts=words,
        encoder=inputs.encoder,
        similarity={"name": "soft_wpmi", "top_k": top_k},
        settings=settings_of(group.summary),
        store=inputs.store,
    )
    table = result.descriptions
    compared = are_compared(group, table, top_k)
    texts = embed_concepts(inputs.encoder, words, inputs.store, settings_of("auto")).embeddings
    rows = {text: i for i, text in enumerate(words.texts)}
    chosen = [rows[text] for text in table["description"][compared]]
    scores = prediction(group, group.embeds @ texts[chosen].T, compared)
    columns = {"description": table["description"], "similarity": table["similarity"].astype(float)}
    columns |= {
        NULL: table[NULL].astype(float),
        "dead": [DEAD in f for f in table[COLUMN]],
        "compared": compared,
    }
    return pd.DataFrame({**columns, **scores}).add_suffix(f" {name}")


def are_compared(group: Group, table: pd.DataFrame, top_k: int) -> Bool[np.ndarray, " units"]:
    """Return which units vary and, of latents, fire on `top_k` images of both halves."""
    described = np.array([not {DEAD, RARE} & set(flags) for flags in table[COLUMN]])
    if not group.has_latents:
        return described
    return described & ((group.activations > 0).sum(0).numpy() >= top_k)


def prediction(
    group: Group, scores: Float[Tensor, "images labels"], compared: Bool[np.ndarray, " units"]
) -> dict[str, Float[np.ndarray, " units"]]:
    """Return how well each compared unit's label predicts it, and what it gains over others'.

    `scores` are those of the compared units' labels. `auc` is of the unit's top images against the
    other images, `r` is Pearson's with its activations; both lose the mean over the labels of the
    other compared units in `_gain`.
    """
    units = torch.from_numpy(compared)
    matrices = {
        "auc": aucs(scores.numpy(), group.top[:, units].numpy()),
        "r": correlations(group.activations[:, units].numpy(), scores.numpy()),
    }
    result = {}
    for name, matrix in matrices.items():
        own = matrix.diagonal()
        others = (matrix.sum(1) - own) / max(1, len(own) - 1)
        for column, values in ((name, own), (f"{name}_gain", own - others)):
            result[column] = np.full(len(compared), np.nan)
            result[column][compared] = values
    return result


def aucs(
    scores: Float[np.ndarray, "images labels"], top: Int[np.ndarray, "k units"]
) -> Float[np.ndarray, "units labels"]:
    """Return the AUC of each label's scores for each unit's top images; ties count half."""
    ranks, k = rankdata(scores, axis=0), len(top)
    sums = np.stack([ranks[images].sum(0) for images in top.T])
    area: Float[np.ndarray, "units labels"] = (sums - k * (k + 1) / 2) / (k * (len(scores) - k))
    return area


def correlations(
    x: Float[np.ndarray, "images units"], y: Float[np.ndarray, "images labels"]
) -> Float[np.ndarray, "units labels"]:
    """Return Pearson's correlation of all pairs of columns."""
    centred = [values - values.mean(0, dtype=np.float64) for values in (x, y)]
    u, v = (values / np.linalg.norm(values, axis=0) for values in centred)
    matrix: Float[np.ndarray, "units labels"] = u.T @ v
    return matrix


def summary_of(units: pd.DataFrame, options: argparse.Namespace) -> dict[str, Any]:
    """Return the metrics of each list of concepts: per group, then differences."""
    resampling = Resampling(options.resamples)
    result: dict[str, Any] = {}
    for name in options.concepts:
        own = units.rename(columns=lambda column, n=name: str(column).removesuffix(f" {n}"))
        groups = {str(key): table for key, table in own.groupby("group", sort=False)}
        result[name] = {
            "groups": {key: of_group(table, resampling) for key, table in groups.items()},
            "differences": differences(groups, resampling),
        }
    return result


def differences(groups: dict[str, pd.DataFrame], resampling: Resampling) -> dict[str, Any]:
    """Return what latents have over the other units of the same summary."""
    result: dict[str, Any] = {}
    for summary in SUMMARIES:
        latents = groups[f"{LATENTS}, {summary}"]
        for kind in (NEURONS, RANDOM):
            others = groups[f"{kind}, {summary}"]
            result[f"latents minus {kind}, {summary}"] = {
                metric: mean_difference(
                    compared(latents, metric), compared(others, metric), resampling
                )
                for metric in METRICS
            }
    return result


def compared(table: pd.DataFrame, metric: str) -> Float[np.ndarray, " units"]:
    return table.loc[table["compared"], metric].to_numpy(float)


def of_group(table: pd.DataFrame, resampling: Resampling) -> dict[str, Any]:
    live = table[table["compared"]]
    shares = {
        "above_null": live["similarity"] > live[NULL].quantile(0.95),
        f"auc_above_{GOOD}": live["auc"] > GOOD,
    }
    return {
        "units": len(table),
        "dead": int(table["dead"].sum()),
        "compared": len(live),
        "different_labels": int(live["description"].nunique()),
        **{name: share(is_in, resampling) for name, is_in in shares.items()},
        **{metric: mean_interval(compared(table, metric), resampling) for metric in METRICS},
    }


def share(is_in: pd.Series[Any], resampling: Resampling) -> dict[str, Any]:
    ends = share_interval(int(is_in.sum()), len(is_in), resampling.confidence)
    return {"value": float(is_in.mean()), **ends}


def tables(metrics: dict[str, Any]) -> str:
    """Return the tables of all lists of concepts as Markdown."""
    parts = []
    for name, values in metrics.items():
        if name == "fit":
            continue
        shares = ("above_null", f"auc_above_{GOOD}")
        header = ["", "units", "compared", "labels", *shares, *METRICS]
        rows = []
        for group, own in values["groups"].items():
            counts = [str(own[key]) for key in ("units", "compared", "different_labels")]
            numbers = [with_interval(own[key]) for key in (*shares, *METRICS)]
            rows.append([group, *counts, *numbers])
        for difference, own in values["differences"].items():
            rows.append([difference, *[""] * 5, *[with_interval(own[key]) for key in METRICS]])
        parts.append(f"Concepts: {name}\n\n{markdown_table(header, rows)}\n")
    return "\n".join(parts)


def with_interval(number: dict[str, Any]) -> str:
    if number["value"] is None:
        return "undefined"
    return f"{number['value']:.3f} [{number['low']:.3f}, {number['high']:.3f}]"


def draw(units: pd.DataFrame, options: argparse.Namespace) -> None:
    """Draw each group's cumulative distributions of clarity and of the labels' AUC."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    name = options.concepts[0]
    titles = {"clarity": "clarity of the top images", f"auc {name}": f"AUC of the label ({name})"}
    plt.rcParams["svg.hashsalt"] = "sae"  # equal figures give equal bytes
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for panel, (column, title) in zip(axes, titles.items(), strict=True):
        for group, table in units[units[f"compared {name}"]].groupby("group", sort=False):
            shares = np.linspace(0, 1, 201)
            values = np.quantile(table[column].to_numpy(float), shares)
            kind, summary = str(group).split(", ")
            color, style = f"C{KINDS.index(kind)}", "-" if summary == "max" else "--"
            panel.plot(values, shares, style, color=color, label=group)
        panel.set_xlabel(title)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("share of units below")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    save_figure(figure, options.out, "units", formats=("svg",))
    plt.close(figure)


def facts(inputs: Inputs, seconds: float) -> dict[str, Any]:
    """Return the manifest."""
    probes = {"described": inputs.described, "held_out": inputs.held_out}
    return {
        **environment(),
        "target": "efficientnet_lite0",
        "layer": inputs.layer,
        "recipe": asdict(training.recipe_of(inputs.options)),
        "encoder": inputs.encoder.name,
        "notes": list(inputs.encoder.notes),
        "clarity": f"{EMBEDDER}, global_pool",
        "similarity": {"name": "soft_wpmi", "top_k": inputs.options.top_k},
        "concepts": inputs.options.concepts,
        "resamples": inputs.options.resamples,
        "images": {k: {"images": len(p), "digest": p.digest} for k, p in probes.items()},
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
