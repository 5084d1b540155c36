"""What stands at the head of a report: what was run, and what to be careful about."""

from __future__ import annotations

from typing import Any

from clipdissect.report.loading import Run
from clipdissect.report.overview import Layer
from clipdissect.report.relative import relative, roots_of

UNSHOWN = ("name", "memory_gb")  # the latter changes no number


def header(run: Run, units: int) -> list[tuple[str, str]]:
    """Names and values of what the run is made of; what isn't known is left out."""
    facts = run.run
    target, probe, concepts = (_dict(facts, key) for key in ("target", "probe", "concepts"))
    layers = run.layers
    found = [
        ("Target", target.get("name")),
        ("Layers", f"{len(layers)}: {', '.join(layers)}" if len(layers) > 1 else layers[0]),
        ("Units", f"{units:,}"),
        ("Probe", _of_images(probe)),
        ("Concepts", _of_texts(concepts)),
        ("Encoder", facts.get("encoder")),
        ("Similarity", _with_parameters(_dict(facts, "similarity"))),
        ("Method", _with_parameters(_dict(facts, "method"))),
        ("Date", str(facts.get("date", "")).replace("T", " ")[:16]),
        ("Took", _seconds(_dict(facts, "seconds"))),
        ("Version", _dict(facts, "versions").get("clipdissect")),
    ]
    roots = roots_of(run)
    return [(name, relative(str(value), roots)) for name, value in found if value]


def warnings(run: Run, layers: list[Layer]) -> list[str]:
    """What a reader must know before believing a label."""
    probe = _dict(run.run, "probe")
    skipped, dead = len(probe.get("skipped", ())), sum(layer.dead for layer in layers)
    found = [run.problem] if run.problem else []
    found += [str(note) for note in run.run.get("notes", ())]
    if skipped:
        found.append(f"{skipped} of {probe.get('images')} images couldn't be read and were left "
                     f"out; run.json lists them")  # fmt: skip
    if dead:
        found.append(f"{dead} units never vary on these images (dead) and have no description")
    if len(run.top_images) and not run.material.pictures:
        found.append("there are no pictures and no histograms: the run's part for the report is "
                     "missing (switched off, interrupted, or made by another version)")  # fmt: skip
    roots = roots_of(run)
    return [relative(text, roots) for text in found]


def notes_on_pictures(run: Run) -> list[str]:
    """How pictures, regions and histograms were made."""
    facts, layers = run.material.facts, run.material.layers
    notes = []
    if run.material.pictures:
        notes.append("Pictures show what the network saw: the image after its resizing and "
                     "cropping.")  # fmt: skip
    images = [own["threshold_images"] for own in layers.values() if "thresholds" in own]
    if images:
        threshold = _threshold(images[0], facts.get("probe_images"))
        notes.append(
            f"Bright regions are where the unit exceeds {threshold}. Maps finer than 28 x 28 "
            f"positions are shown by the largest value of each cell."
        )
        lacking = sum(path is None for own in layers.values() for slots in own.get("outlines", ())
                      for path in slots)  # fmt: skip
        if lacking:
            notes.append(f"{lacking:,} pictures have no region: the network was shown some images "
                         f"again, not all of these (report.regions).")  # fmt: skip
    if any(own.get("whole") is False for own in layers.values()):
        kept = next(own["images"] for own in layers.values() if own.get("whole") is False)
        notes.append(f"Activation histograms count the {kept} top images that were kept of each "
                     f"unit, not all.")  # fmt: skip
    return notes


def _threshold(images: int, total: int | None) -> str:
    if not images:
        return "the threshold that the method compared it with (column threshold)"
    of_all = f"all {total}" if images == total else f"{images} random ones of the {total}"
    return f"its 99.5 % quantile over positions, estimated from {of_all} images of the probe"


def _dict(facts: dict[str, Any], key: str) -> dict[str, Any]:
    value = facts.get(key)
    return value if isinstance(value, dict) else {}


def _of_images(probe: dict[str, Any]) -> str:
    if "name" not in probe:
        return ""
    return f"{probe['name']}, {probe.get('used', 0):,} images"


def _of_texts(concepts: dict[str, Any]) -> str:
    if "name" not in concepts:
        return ""
    return f"{concepts['name']}, {concepts.get('texts', 0):,} texts"


def _with_parameters(values: dict[str, Any]) -> str:
    """A name with its parameters in brackets; those that are None are left out."""
    shown = ", ".join(f"{k} {v}" for k, v in values.items() if k not in UNSHOWN and v is not None)
    return f"{values.get('name', '')} ({shown})" if shown else str(values.get("name", ""))


def _seconds(stages: dict[str, float]) -> str:
    if not stages:
        return ""
    parts = ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
    total = sum(stages.values())
    whole = f"{total:.0f} s" if total < 120 else f"{total / 60:.0f} min"
    return f"{whole} ({parts})"
