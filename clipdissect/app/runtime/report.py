"""The runtime's manifest, metrics and text tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from clipdissect.app import paper
from clipdissect.app.build import settings_of
from clipdissect.app.console import markdown_table
from clipdissect.app.runtime.microbenchmarks import (
    OURS,
    PLAIN,
    exponents,
    model,
    processor,
    ratios,
    spread,
)
from clipdissect.results.manifest import environment
from clipdissect.results.run_files import jsonable
from clipdissect.utils.figures import save_figure

PAPER_LAYERS = 5  # of ResNet-50
PASS = ("decode", "forward")
ORDER = ("load", "texts", "digests", *PASS)
RATES = {
    "images_per_s": "images/s",
    "units_per_s": "units/s",
    "ram_gb": "RAM GB",
    "gpu_gb": "GPU GB",
}


def manifest(config: Any) -> dict[str, Any]:
    settings = settings_of(config)
    options: Any = OmegaConf.to_container(config, resolve=True)
    head = environment()
    head["machine"]["processor"] = processor()
    return {
        **head,
        "device": settings.torch_device,
        "precision": settings.numeric,
        "runtime": options["runtime"],
        "similarity": options["similarity"],
        "target": options["target"]["name"],
        "encoder": options["encoder"]["name"],
    }


def metrics(
    rounds: pd.DataFrame, pieces: pd.DataFrame, facts: Mapping[str, Any], agreement: float | None
) -> dict[str, Any]:
    """Return the contents of the tables and the figure, JSON-able."""
    values: dict[str, Any] = {"methods": _methods(rounds), "same_descriptions": agreement}
    both = {OURS, PLAIN} <= set(rounds["method"]) if len(rounds) else False
    if agreement is None:
        values["same_descriptions_reason"] = "the plain pipeline was not run"
    values["ratios"] = _ratios(rounds) if both else {}
    if len(pieces):
        values["pieces"] = _piece_ratios(pieces)
        values["exponents"] = exponents(pieces).to_dict("records")
        for row in values["exponents"]:
            if row["from"] == row["to"]:
                row["exponent_reason"] = "only one size was measured"
        jobs = {side: extrapolated(rounds, pieces, facts, side) for side in (OURS, PLAIN)}
        values["extrapolated"] = {side: job for side, job in jobs.items() if job is not None}
    complete: dict[str, Any] = jsonable(values)
    return complete


def extrapolated(
    rounds: pd.DataFrame, pieces: pd.DataFrame, facts: Mapping[str, Any], side: str
) -> dict[str, float] | None:
    """Extrapolate a side's seconds by stage to the paper's job; None if it wasn't run.

    Texts and passes grow in proportion, scoring by `microbenchmarks.model`. P is computed
    once for all layers; ours only for images in any unit's top-k, and scores all layers at
    once.
    """
    cold = rounds[(rounds["method"] == side) & (rounds["store"] == "cold")]
    if not len(cold) or not len(pieces[pieces["side"] == side]):
        return None
    job, run = paper.values()["table4"], facts["sides"][side]
    product, gather, fixed = model(pieces, side)
    top_k = facts["similarity"].get("top_k") if side == OURS else None
    images = min(job["images"], job["units"] * top_k) if top_k else job["images"]
    texts = cold["stage_texts"].median() / run["concepts"]
    passes = cold[[f"stage_{stage}" for stage in PASS]].sum(axis=1).median() / run["images"]
    layers = 1 if side == OURS else PAPER_LAYERS
    scoring = job["concepts"] * (product * images + gather * job["units"]) + fixed * layers
    seconds = {"texts": texts * job["concepts"], "passes": passes * job["images"]}
    seconds = {name: float(value) for name, value in {**seconds, "scoring": scoring}.items()}
    return seconds | {"total": sum(seconds.values())}


def stages_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the stages of all runs in the order of a job, `other` last."""
    seconds = [item for run in runs for item in run["stages"].items()]
    names = dict.fromkeys(name for name, value in seconds if name != "other" and value)
    return [*(n for n in ORDER if n in names), *(n for n in names if n not in ORDER), "other"]


def _methods(rounds: pd.DataFrame) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    if not len(rounds):
        return methods
    stages = [c for c in rounds if str(c).startswith("stage_")]
    for (name, store), group in rounds.groupby(["method", "store"], sort=False):
        seconds, images = group["seconds"].median(), group["images"].iloc[0]
        medians = group[stages].median().dropna()
        methods.setdefault(str(name), {})[str(store)] = {
            "seconds": spread(list(group["seconds"])),
            "stages": {c.removeprefix("stage_"): float(v) for c, v in medians.items()},
            "images_per_s": None if pd.isna(images) else float(images / seconds),
            "units_per_s": float(group["units"].iloc[0] / seconds),
            "ram_gb": float(group["ram"].max() / 1e9),
            "gpu_gb": None if group["gpu"].isna().all() else float(group["gpu"].max() / 1e9),
        }
    return methods


def _ratios(rounds: pd.DataFrame) -> dict[str, Any]:
    rows = rounds[rounds["method"].isin([OURS, PLAIN])].rename(columns={"method": "side"})
    stores = {store: rows[rows["store"] == store] for store in ("cold", "warm")}
    passes = stores["cold"][[f"stage_{stage}" for stage in PASS]].sum(axis=1)
    tables = {**stores, "pass over the images (cold)": stores["cold"].assign(seconds=passes)}
    for store, table in stores.items():
        tables[f"scoring ({store})"] = table.assign(seconds=table["stage_similarity"])
    return {name: spread(ratios(table, PLAIN, "round")) for name, table in tables.items()}


def _piece_ratios(pieces: pd.DataFrame) -> dict[str, Any]:
    """Return other sides over ours, at the largest size of each axis or the base size."""
    spreads = {}
    for axis, group in pieces.groupby("axis", sort=False):
        size = "images" if axis in ("pass", "variants") else str(axis)
        largest = group[group[size] == group[size].max()]
        for side in dict.fromkeys(group["side"]):
            if side != OURS:
                spreads[f"{axis}: {side}"] = spread(ratios(largest, side))
    return spreads


def markdown(metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    options = facts["runtime"]
    parts = [_head(facts), _methods_table(metrics)]
    if metrics["ratios"]:
        agreement = metrics["same_descriptions"]
        text = f"Both take turns of {options['slice']} s. " + (
            f"They give {100 * agreement:.2f} % of the units the same description."
            if agreement is not None
            else "Whether they give the same descriptions is unknown: "
            f"{metrics['same_descriptions_reason']}."
        )
        parts.append(f"## Plain over ours\n\n{text}\n\n{_ratio_table(metrics['ratios'])}")
    if "pieces" in metrics:
        base = ", ".join(f"{n} {axis}" for axis, n in options["base"].items())
        text = (
            f"Plain over ours at the largest size of each axis, the others being {base}; "
            f"`variants` at these."
        )
        parts.append(f"## Pieces in turn\n\n{text}\n\n{_ratio_table(metrics['pieces'])}")
        parts.append(f"## Growth\n\n`seconds ~ size ** exponent`.\n\n{_exponents(metrics)}")
        parts.append(_extrapolation(metrics))
    parts.append(_paper(facts))
    return "\n".join(parts)


def _head(facts: Mapping[str, Any]) -> str:
    nothing: dict[str, Any] = {"names": {}, "notes": [], "layers": []}
    side: dict[str, Any] = next(iter(facts["sides"].values()), nothing)
    names = ", ".join(f"{kind} {name}" for kind, name in side["names"].items())
    machine = facts["machine"]
    cards = ", ".join(machine["gpus"]) or "no GPU"
    notes = "".join(f"\n- {note}" for note in side["notes"])
    batches = ", ".join(
        f"{name}: batches of {entry['batch_size']}{', freed memory kept' * entry['memory_kept']}"
        for name, entry in facts["sides"].items()
    )
    return (
        f"# Runtime\n\n{names}; layers {', '.join(side['layers'])}; {side.get('images')} images, "
        f"{side.get('concepts')} concepts.\n{machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, {cards}; device {facts['device']}, precision "
        f"{facts['precision']}; {batches}; {facts['date'][:10]}.\nMedians "
        f"over {facts['runtime']['rounds']} rounds after a warm-up; in brackets the least and the "
        f"most.\n{notes}\n"
    )


def _methods_table(metrics: Mapping[str, Any]) -> str:
    methods = metrics["methods"]
    stages = stages_of([run for stores in methods.values() for run in stores.values()])
    rows = []
    for name, stores in methods.items():
        for store, run in stores.items():
            cells = [*(run["stages"].get(stage) for stage in stages), *(run[key] for key in RATES)]
            rows.append([name, store, _spread(run["seconds"]), *map(_number, cells)])
    return markdown_table(["method", "store", "seconds", *stages, *RATES.values()], rows)


def _ratio_table(spreads: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[name, _spread(values)] for name, values in spreads.items()]
    return markdown_table(["", "times as long"], rows)


def _exponents(metrics: Mapping[str, Any]) -> str:
    columns = ["axis", "side", "from", "to"]
    rows = [
        [*(str(row[c]) for c in columns), _number(row["exponent"]) or row["exponent_reason"]]
        for row in metrics["exponents"]
    ]
    return markdown_table(["over", *columns[1:], "exponent"], rows)


def _extrapolation(metrics: Mapping[str, Any]) -> str:
    job, jobs = paper.values()["table4"], metrics["extrapolated"]
    stages = list(next(iter(jobs.values()), {}))
    rows = [[side, *(f"{job[stage]:.0f}" for stage in stages)] for side, job in jobs.items()]
    return (
        f"## Extrapolated, not measured: the paper's job\n\n{job['images']:,} images, "
        f"{job['units']:,} units in five layers, {job['concepts']:,} concepts, with these networks "
        f"on this machine. Seconds:\n\n{markdown_table(['', *stages], rows)}"
    )


def _paper(facts: Mapping[str, Any]) -> str:
    job = paper.values()["table4"]
    seconds = "; ".join(f"{name} {value}" for name, value in job["seconds"].items())
    failed = "".join(f"\nNot run here: {name}: {why}\n" for name, why in facts["not_run"].items())
    return f"The paper's Table 4, seconds on a {job['hardware']}: {seconds}.\n{failed}"


def _spread(values: Mapping[str, Any]) -> str:
    return f"{_number(values['median'])} [{_number(values['least'])}, {_number(values['most'])}]"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) < 0.1:
        return f"{value:.2g}"  # a stage of milliseconds isn't 0.00
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oo", "++", "--", "**", "||")
GREYS = ("0.25", "0.95", "0.75", "0.9", "0.55", "0.85", "1.0")
LINES = {OURS: ("o-", "black", "black"), PLAIN: ("s--", "0.45", "white")}
SCORING = "scoring"
TITLES = {"images": SCORING, "units": SCORING, "concepts": SCORING, "pass": "pass over the images"}


def figure(metrics: Mapping[str, Any], pieces: pd.DataFrame, folder: Path) -> None:
    from matplotlib.figure import Figure

    axes = [axis for axis in TITLES if len(pieces) and axis in set(pieces["axis"])]
    bars = sum(len(stores) for stores in metrics["methods"].values())
    height = 1.6 + 0.42 * bars
    drawn = Figure((11, height + (3.0 if axes else 0)), layout="constrained")
    heights = [1 + 0.42 * bars, 3.0] if axes else None
    grid = drawn.add_gridspec(2 if axes else 1, max(len(axes), 1), height_ratios=heights)
    _draw_bars(drawn.add_subplot(grid[0, :]), metrics["methods"])
    for column, axis in enumerate(axes):
        panel = drawn.add_subplot(grid[1, column])
        _draw_growth(panel, axis, pieces[pieces["axis"] == axis])
        if column == 0:
            panel.set_ylabel("seconds")
            panel.legend(fontsize="small", frameon=False)
    save_figure(drawn, folder, "runtime", dpi=110)


def _draw_bars(axis: Any, methods: Mapping[str, Any]) -> None:
    runs = {f"{name}, {store}": run for name, by in methods.items() for store, run in by.items()}
    start = np.zeros(len(runs))
    style = {"height": 0.7, "edgecolor": "black", "linewidth": 0.6}
    for index, stage in enumerate(stages_of(list(runs.values()))):
        seconds = np.array([max(run["stages"].get(stage, 0.0), 0.0) for run in runs.values()])
        colours = {"color": GREYS[index % len(GREYS)], "hatch": HATCHES[index % len(HATCHES)]}
        axis.barh(range(len(runs)), seconds, left=start, label=stage, **style, **colours)
        start += seconds
    for y, run in enumerate(runs.values()):
        axis.text(start[y], y, f" {run['seconds']['median']:.3g} s", va="center", fontsize="small")
    axis.set_yticks(range(len(runs)), list(runs))
    axis.invert_yaxis()
    axis.set_xlim(0, 1.1 * max(start, default=1.0))
    axis.set_xlabel("seconds, median by stage")
    axis.legend(fontsize="small", ncols=7, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _draw_growth(axis: Any, name: str, pieces: pd.DataFrame) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    size = "images" if name == "pass" else name
    for side, group in pieces.groupby("side", sort=False):
        line, colour, face = LINES[str(side)]
        seconds = group.groupby(size)["seconds"]
        median = seconds.median()
        errors = [median - seconds.min(), seconds.max() - median]
        style = {"fmt": line, "color": colour, "markerfacecolor": face, "label": side}
        axis.errorbar(median.index, median, yerr=errors, capsize=2, markersize=5, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    sizes = sorted(set(pieces[size]))
    axis.set_xticks(sizes, [f"{n:.0f}" for n in sizes], fontsize="small")
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(size)
    axis.set_title(TITLES[name], fontsize="medium")
    axis.grid(color="0.9")
