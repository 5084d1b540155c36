"""Gather the final-layer runs below results/ into the paper's Tables 1 to 3, beside its numbers.

Writes table1.md, table1.csv and so on. A run counts as a row if its run.json says so (target,
probe, concepts, encoder, similarity function), never by its folder's name; of several the latest. A
number without a run says which command would give it. Nothing of the paper is filled in as ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TOLERANCE = {"top1": 0.005}  # others: cosines
COSINE = 0.005
NAMES = {"3k": "ef_3k", "10k": "google_10k", "20k": "google_20k",
         "imagenet_val+broden": "imagenet_broden"}  # fmt: skip
COLUMNS = ("row", "metric", "paper", "ours", "low", "high", "difference", "verdict")
ENCODER = "clip_vit_b16"
IMAGES = {"imagenet_val": 50_000, "cifar100_train": 50_000}

Run = Mapping[str, Any]


def main() -> None:
    """Entry point of `python -m experiments.tables` and `clipdissect tables`."""
    parser = argparse.ArgumentParser(prog="clipdissect tables", description=__doc__)
    parser.add_argument("--results", default="results", help="where the runs are")
    parser.add_argument("--out", default="results/tables", help="where the tables go")
    options = parser.parse_args()
    try:
        for name, rows in gather(Path(options.results)).items():
            write(name, rows, Path(options.out))
            done = sum(row["ours"] is not None for row in rows)
            print(f"{name}: {done} of {len(rows)} numbers have a run; {options.out}/{name}.md")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def gather(results: Path) -> dict[str, list[dict[str, Any]]]:
    """Each table's numbers: the paper's, ours where a run gives it, and the verdict.

    Args:
        results: searched at any depth for complete runs of `final_layer`.
    """
    from experiments import study_tables

    runs = list(runs_below(results))
    tables = {name: [_judged(wanted, runs) for wanted in _numbers(name)]
              for name in ("table1", "table2", "table3")}  # fmt: skip
    return {**tables, "studies": study_tables.rows(results)}


def runs_below(results: Path) -> Iterator[Run]:
    """`run` and `metrics` of every complete final-layer run, by date; unreadable ones are named."""
    found = []
    for path in results.rglob("metrics.json"):
        if not (path.parent / "run.json").is_file():
            continue
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            run = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))
        except ValueError:
            print(f"{path.parent} isn't readable and is left out", file=sys.stderr)
            continue
        if "final_layer" in metrics and "intervals" in metrics:
            found.append({"run": run, "metrics": metrics})
    yield from sorted(found, key=lambda one: str(one["run"].get("date")))


def write(name: str, rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write `<name>.csv` and `<name>.md`."""
    import pandas as pd

    from clipdissect.files import write_text
    from clipdissect.results import write_table

    write_table(out / f"{name}.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([_text(row[c]) for c in COLUMNS] for row in rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(out / f"{name}.md", f"# {name.capitalize()} of the paper, and ours\n\n{text}\n")


def _numbers(table: str) -> Iterator[dict[str, Any]]:
    """The paper's numbers of a table, each with the facts of the run that would give it."""
    from experiments import paper

    values = paper.values()[table]
    if table == "table3":
        yield from _table3(values)
        return
    target = values["target"].split()[0]
    for row in values["rows"]:
        facts = {"target": target, "similarity": "soft_wpmi", "method": row["method"],
                 "probe": _ours(row["probe"]), "concepts": _ours(row["concepts"])}  # fmt: skip
        for metric in ("top1", "clip_vit_b16_cos", "mpnet_cos"):
            if metric in row:
                yield {"facts": facts, "metric": metric, "paper": row[metric]}


def _table3(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for metric in ("mpnet_cos", "top1"):
        concepts = _ours(values[metric]["concepts"])
        for name in ("rank_reorder", "wpmi", "soft_wpmi"):
            for probe, number in zip(values["probes"], values[metric][name], strict=True):
                if probe != "average":
                    facts = {"target": "resnet50", "similarity": name, "method": "clip_dissect",
                             "probe": _ours(probe), "concepts": concepts}  # fmt: skip
                    yield {"facts": facts, "metric": metric, "paper": number}


def _judged(wanted: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    facts, metric, number = wanted["facts"], wanted["metric"], wanted["paper"]
    row = " ".join(str(facts[k]) for k in ("method", "probe", "concepts", "similarity"))
    found: dict[str, Any] = {"row": row, "metric": metric, "paper": number,
                             **dict.fromkeys(("ours", "low", "high", "difference"))}  # fmt: skip
    fitting = [one for one in runs if _fits(one["run"], facts)]
    ours = _value(fitting[-1]["metrics"], metric) if fitting else None
    if ours is None:
        why = f"{metric} is undefined in its run" if fitting else "not run"
        return found | {"verdict": f"{why}: {_needs(facts)}"}
    difference = ours["value"] - number
    within = abs(difference) <= TOLERANCE.get(metric, COSINE) + 1e-9
    verdict = "agrees" if within else "differs"
    return found | {
        "ours": ours["value"],
        "low": ours["low"],
        "high": ours["high"],
        "difference": difference,
        "verdict": verdict,
    }


def _fits(run: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a run is the row's: the paper's encoder, hyperparameters and number of images."""
    from experiments import paper

    keys = ("target", "probe", "concepts", "similarity", "method")
    named = {key: (run.get(key) or {}).get("name") for key in keys}
    if any(named[k] != facts[k] for k in named) or run.get("encoder") != ENCODER:
        return False
    expected = paper.values()["hyperparameters"][facts["similarity"]]
    images = IMAGES.get(facts["probe"], run["probe"]["images"])
    same_images: bool = run["probe"]["images"] == images
    return same_images and expected.items() <= run["similarity"].items()


def _value(metrics: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """A metric with its interval; Table 2's accuracy is over Broden's scenes, released matching."""
    if metric == "top1" and "places365" in metrics:
        released = metrics["places365"]["released"]
        ours, span = released["top1"], released["top1_interval"]
    else:
        ours, span = metrics["final_layer"].get(metric), metrics["intervals"].get(metric)
    return None if ours is None or span is None else {"value": ours, **span}


def _needs(facts: Mapping[str, Any]) -> str:
    """What is missing and the command that would give the number."""
    if facts["method"] != "clip_dissect":
        return "from published labels, see published.md: clipdissect check_published"
    probe = str(facts["probe"])
    data = {"imagenet_val": "ImageNet val", "broden": "Broden", "cifar100_train": "CIFAR-100",
            "imagenet_broden": "ImageNet val and Broden"}.get(probe, probe)  # fmt: skip
    return (
        f"needs {data} and CLIP: clipdissect final_layer target={facts['target']} "
        f"probe={probe} concepts={facts['concepts']} similarity={facts['similarity']}"
    )


def _ours(name: str | None) -> str | None:
    """Our name of the paper's probe or concept set."""
    return None if name is None else NAMES.get(name, name)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
