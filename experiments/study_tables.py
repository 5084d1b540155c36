"""The studies' numbers of the paper beside those of our runs, for `experiments.tables`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Found = dict[str, Any]


def rows(results: Path) -> list[dict[str, Any]]:
    """The paper's numbers of its studies; ours where a run of the paper's setting gives one.

    Args:
        results: searched at any depth for complete runs of the studies.
    """
    runs = list(_runs(results))
    return [_row(wanted, runs) for wanted in _wanted()]


def _runs(results: Path) -> Iterator[tuple[Found, Found]]:
    """`run` and `metrics` of every complete run of a study, by date."""
    found = []
    for path in results.rglob("run.json"):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            metrics = json.loads((path.parent / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and isinstance(run.get("study"), dict):
            found.append((run, metrics))
    yield from sorted(found, key=lambda one: str(one[0].get("date")))


def _wanted() -> Iterator[Found]:
    from experiments import paper

    values = paper.values()
    missing = values["missing_concepts"]
    for group in ("dog.n.01", "bird.n.01"):
        yield {"study": "missing_concepts", "row": f"{group}, {missing['probe']}",
               "metric": "top1", "paper": missing[group]["right"] / missing[group]["units"],
               "keys": (group, "missing"), "facts": {"probe": missing["probe"],
                                                     "concepts": missing["concepts"]}}  # fmt: skip
    weights = values["weight_similarity"]["pearson_r"]
    for pairs, number in weights.items():
        part = "all_pairs" if int(pairs) > 50_000 else "top_pairs"
        yield {"study": "weight_similarity", "row": f"layer4 to fc, {pairs} weights",
               "metric": "pearson_r", "paper": number, "keys": ("clip_vit_b16", part),
               "facts": {}}  # fmt: skip
    for method, numbers in values["class_from_descriptions"].items():
        for metric, number in numbers.items():
            yield {"study": "class_from_descriptions", "row": method, "metric": metric,
                   "paper": number, "keys": ("mpnet", metric),
                   "facts": {} if method == "clip_dissect" else None}  # fmt: skip
    yield {"study": "compositional_concepts", "row": "phrases minus words, fc", "metric":
           "mpnet_cos", "paper": None,
           "keys": ("fc", "judged", "mpnet", "phrases_minus_words"), "facts": {}}  # fmt: skip


def _row(wanted: Found, runs: list[tuple[Found, Found]]) -> Found:
    study, metric = wanted["study"], wanted["metric"]
    empty = dict.fromkeys(("ours", "low", "high", "difference"))
    row = {"row": f"{study}: {wanted['row']}", "metric": metric, "paper": wanted["paper"], **empty}
    fitting = [metrics for run, metrics in runs if _fits(run, study, wanted["facts"])]
    values = [v for v in (_value(m.get(study), wanted["keys"], metric) for m in fitting) if v]
    if not values:
        return row | {"verdict": f"not run: clipdissect {study} experiment={study}"}
    ours = values[-1]
    if wanted["paper"] is None:
        return row | ours | {"verdict": "the paper has no such number"}
    inside = (ours["low"] or ours["ours"]) <= wanted["paper"] <= (ours["high"] or ours["ours"])
    verdict = "the paper's is in our interval" if inside else "differs"
    return row | ours | {"difference": ours["ours"] - wanted["paper"], "verdict": verdict}


def _fits(run: Found, study: str, facts: Mapping[str, str] | None) -> bool:
    """Whether a run is of the paper's target, encoder and our own labels, and of the facts."""
    named = {key: (run.get(key) or {}).get("name") for key in ("target", "probe", "concepts")}
    return (
        facts is not None
        and run["study"].get("name") == study
        and named["target"] == "resnet50"
        and run.get("encoder") == "clip_vit_b16"
        and all(named[key] == value for key, value in facts.items())
    )


def _value(metrics: Any, keys: tuple[str, ...], metric: str) -> Found | None:
    for key in keys:
        metrics = (metrics or {}).get(key)
    if not metrics:
        return None
    value = metrics.get("value", metrics.get(metric))
    span = metrics.get("interval") or (metrics.get("intervals") or {}).get(metric) or metrics
    if value is None:
        return None
    return {"ours": value, "low": span.get("low"), "high": span.get("high")}
