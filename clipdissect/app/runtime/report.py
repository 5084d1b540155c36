"""The runtime's metrics and its tables in text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.app.paper import values as paper
from clipdissect.app.runtime.microbenchmarks import OURS, PLAIN, exponents, model, ratios
from clipdissect.results.run_files import jsonable

# The paper's layers of ResNet-50.
PAPER_LAYERS = 5
PASS = ("decode", "forward")
ORDER = ("load", "texts", "digests", *PASS)
RATES = {
    "images_per_s": "images/s",
    "units_per_s": "units/s",
    "ram_gb": "RAM GB",
    "gpu_gb": "GPU GB",
}


def metrics(
    rounds: pd.DataFrame, pieces: pd.DataFrame, facts: Mapping[str, Any], agreement: float | None
) -> dict[str, Any]:
    """All that the table and the figure show, JSON-able.

    Args:
        rounds: one row a method, store and round.
        pieces: of `runtime_pieces.scoring` and `passes`.
        facts: the run's manifest.
        agreement: share of units that both pipelines describe alike, where both ran.
    """
    found: dict[str, Any] = {"methods": _methods(rounds), "same_descriptions": agreement}
    both = {OURS, PLAIN} <= set(rounds["method"]) if len(rounds) else False
    if agreement is None:
        found["same_descriptions_reason"] = "the plain pipeline was not run"
    found["ratios"] = _ratios(rounds) if both else {}
    if len(pieces):
        found["pieces"] = _piece_ratios(pieces)
        found["exponents"] = [_growth(one) for one in exponents(pieces).to_dict("records")]
        found["extrapolated"] = {
            side: one
            for side in (OURS, PLAIN)
            if (one := extrapolated(rounds, pieces, facts, side)) is not None
        }
    complete: dict[str, Any] = jsonable(found)
    return complete


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most, and the values."""
    each = list(map(float, values))
    return {"median": float(np.median(each)), "least": min(each), "most": max(each), "each": each}


def extrapolated(
    rounds: pd.DataFrame, pieces: pd.DataFrame, facts: Mapping[str, Any], side: str
) -> dict[str, float] | None:
    """Seconds of the paper's job by stage, on this machine with these networks; None if not run.

    Texts and passes grow in proportion. Scoring follows `runtime_pieces.model`. P is made once
    for all layers, for ours of the images that are among any unit's top ones; ours also scores all
    layers at once.

    Args:
        rounds, pieces, facts: as of `metrics`.
        side: `clip_dissect` or `plain`.
    """
    own = rounds[(rounds["method"] == side) & (rounds["store"] == "cold")]
    if not len(own) or not len(pieces[pieces["side"] == side]):
        return None
    job, run = paper.values()["table4"], facts["sides"][side]
    product, gather, fixed = model(pieces, side)
    ours, top_k = side == OURS, facts["similarity"].get("top_k")
    images = min(job["images"], job["units"] * top_k) if ours and top_k else job["images"]
    each = {
        "texts": own["stage_texts"].median() / run["concepts"] * job["concepts"],
        "passes": own[[f"stage_{s}" for s in PASS]].sum(axis=1).median()
        / run["images"]
        * job["images"],
        "scoring": job["concepts"] * (product * images + gather * job["units"])
        + fixed * (1 if ours else PAPER_LAYERS),
    }
    return {name: float(value) for name, value in {**each, "total": sum(each.values())}.items()}


def stages_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """All stages of some of `metrics`' entries as they follow each other, and `other` last."""
    spent = [item for one in runs for item in one["stages"].items()]
    found = dict.fromkeys(name for name, seconds in spent if name != "other" and seconds)
    known = [name for name in ORDER if name in found]
    return [*known, *(name for name in found if name not in known), "other"]


def _methods(rounds: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {}
    stages = [c for c in rounds if str(c).startswith("stage_")]
    for (name, store), own in (
        rounds.groupby(["method", "store"], sort=False) if len(rounds) else ()
    ):
        seconds = own["seconds"].median()
        images = own["images"].iloc[0]
        spent = own[stages].median().dropna()
        found.setdefault(str(name), {})[str(store)] = {
            "seconds": spread(list(own["seconds"])),
            "stages": {c.removeprefix("stage_"): float(v) for c, v in spent.items()},
            "images_per_s": None if pd.isna(images) else float(images / seconds),
            "units_per_s": float(own["units"].iloc[0] / seconds),
            "ram_gb": float(own["ram"].max() / 1e9),
            "gpu_gb": None if own["gpu"].isna().all() else float(own["gpu"].max() / 1e9),
        }
    return found


def _growth(one: dict[Any, Any]) -> dict[str, Any]:
    """An exponent's row, with the reason where there is none."""
    lone = one["from"] == one["to"]
    return {**one, **({"exponent_reason": "only one size was measured"} if lone else {})}


def _ratios(rounds: pd.DataFrame) -> dict[str, Any]:
    """Plain over ours, round by round."""
    rows = rounds[rounds["method"].isin([OURS, PLAIN])].rename(columns={"method": "side"})
    cold, warm = (rows[rows["store"] == store] for store in ("cold", "warm"))
    passes = cold.assign(seconds=cold[[f"stage_{s}" for s in PASS]].sum(axis=1))
    found = {"cold": cold, "warm": warm, "pass over the images (cold)": passes}
    for name, own in (("cold", cold), ("warm", warm)):
        found[f"scoring ({name})"] = own.assign(seconds=own["stage_similarity"])
    return {name: spread(ratios(own, PLAIN, "round")) for name, own in found.items()}


def _piece_ratios(pieces: pd.DataFrame) -> dict[str, Any]:
    """Other ways over ours at the base size, and at the largest size of each axis."""
    found = {}
    for axis, own in pieces.groupby("axis", sort=False):
        size = "images" if axis in ("pass", "variants") else str(axis)
        largest = own[own[size] == own[size].max()]
        for side in (s for s in dict.fromkeys(own["side"]) if s != OURS):
            found[f"{axis}: {side}"] = spread(ratios(largest, side))
    return found


def markdown(metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The tables as text."""
    parts = [_head(facts), _table(metrics)]
    if metrics["ratios"]:
        turn = facts["runtime"]["slice"]
        parts.append(
            f"## Plain over ours\n\nBoth take turns of {turn} s. {_same(metrics)}\n\n"
            + _ratio_table(metrics["ratios"])
        )
    if "pieces" in metrics:
        base = ", ".join(f"{n} {axis}" for axis, n in facts["runtime"]["base"].items())
        parts.append(
            f"## Pieces in turn\n\nPlain over ours at the largest size of each axis, the "
            f"others being {base}; `variants` at these.\n\n" + _ratio_table(metrics["pieces"])
        )
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
    return (
        f"# Runtime\n\n{names}; layers {', '.join(side['layers'])}; {side.get('images')} images, "
        f"{side.get('concepts')} concepts.\n{machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, {cards}; device {facts['device']}, precision "
        f"{facts['precision']}; {_batches(facts['sides'])}; {facts['date'][:10]}.\nMedians "
        f"over {facts['runtime']['rounds']} rounds after a warm-up; in brackets the least and the "
        f"most.\n{notes}\n"
    )


def _batches(sides: Mapping[str, Any]) -> str:
    """Each side's batches, and whether its process keeps the memory that it frees."""
    said = {name: f"batches of {one['batch_size']}" for name, one in sides.items()}
    return ", ".join(
        f"{name}: {text}{', freed memory kept' if sides[name]['memory_kept'] else ''}"
        for name, text in said.items()
    )


def _table(metrics: Mapping[str, Any]) -> str:
    methods = metrics["methods"]
    stages = stages_of([one for stores in methods.values() for one in stores.values()])
    heads = ["method", "store", "seconds", *stages, *RATES.values()]
    lines = []
    for name, stores in methods.items():
        for store, one in stores.items():
            cells = [*(one["stages"].get(stage) for stage in stages), *(one[key] for key in RATES)]
            lines.append([name, store, _spread(one["seconds"]), *map(_number, cells)])
    return _grid(heads, lines)


def _ratio_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    return _grid(["", "times as long"], [[name, _spread(one)] for name, one in found.items()])


def _same(metrics: Mapping[str, Any]) -> str:
    same = metrics["same_descriptions"]
    if same is None:
        reason = metrics["same_descriptions_reason"]
        return f"Whether they give the same descriptions is unknown: {reason}."
    return f"They give {100 * same:.2f} % of the units the same description."


def _exponents(metrics: Mapping[str, Any]) -> str:
    heads = ["over", "side", "from", "to", "exponent"]
    return _grid(
        heads,
        [
            [
                str(one["axis"]),
                one["side"],
                str(one["from"]),
                str(one["to"]),
                _number(one["exponent"]) or one["exponent_reason"],
            ]
            for one in metrics["exponents"]
        ],
    )


def _extrapolation(metrics: Mapping[str, Any]) -> str:
    job = paper.values()["table4"]
    said = (
        f"## Extrapolated, not measured: the paper's job\n\n{job['images']:,} images, "
        f"{job['units']:,} units in five layers, {job['concepts']:,} concepts, with these networks "
        f"on this machine. Seconds:\n\n"
    )
    found = metrics["extrapolated"]
    stages = list(next(iter(found.values()), {}))
    return said + _grid(
        ["", *stages],
        [[side, *(f"{one[stage]:.0f}" for stage in stages)] for side, one in found.items()],
    )


def _paper(facts: Mapping[str, Any]) -> str:
    job = paper.values()["table4"]
    said = "; ".join(f"{name} {seconds}" for name, seconds in job["seconds"].items())
    failed = "".join(f"\nNot run here: {name}: {why}\n" for name, why in facts["not_run"].items())
    return f"The paper's Table 4, seconds on a {job['hardware']}: {said}.\n{failed}"


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _spread(one: Mapping[str, Any]) -> str:
    return f"{_number(one['median'])} [{_number(one['least'])}, {_number(one['most'])}]"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) < 0.1:
        return f"{value:.2g}"  # a stage of milliseconds isn't 0.00
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
