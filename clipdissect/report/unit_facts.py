"""What is known of a unit besides its descriptions, as names and values in words."""

from __future__ import annotations

import math

from clipdissect.datasets.class_names import is_a_name
from clipdissect.report.run import Meaning, Unit
from clipdissect.report.scores import score_of

BLOCKS = " ▁▂▃▄▅▆▇█"

Facts = list[tuple[str, str]]


def title(unit: Unit) -> str:
    """Return the unit's description, or its meanings where it has several."""
    if unit.meanings and not unit.meanings[0].is_range:
        return " | ".join(meaning.text for meaning in unit.meanings)
    return unit.descriptions[0][0] if unit.descriptions else "no description"


def facts(unit: Unit) -> Facts:
    """Return the facts that are known, except the histogram."""
    rows = [_meaning(number, meaning) for number, meaning in enumerate(unit.meanings, 1)]
    if unit.margin == unit.margin:
        rows.append(("margin", f"{unit.margin:.3f}"))
    if unit.null == unit.null:
        rows.append(("null", f"{unit.null:.3f} (best score with shuffled images)"))
    if unit.truth:
        rows.append(("class", f"{unit.truth} ({_verdict(unit)})"))
    rows += [(name, label or "-") for name, label in unit.others.items()]
    rows += [(score_of(name).title, f"{value:.3f}") for name, value in unit.scores.items()]
    if unit.scored:
        rows.append(("scores are of", unit.scored))
    return rows


def histogram(unit: Unit) -> Facts:
    """Return the activation histogram as a fact of block characters; empty if unknown."""
    if not unit.counts:
        return []
    most = max(unit.counts)
    # Round up, so that every bin with images has a visible block.
    blocks = "".join(BLOCKS[-(-8 * count // most)] for count in unit.counts)
    return [("activation", f"{unit.low:.3g} {blocks} {unit.high:.3g}")]


def facts_of_latent(unit: Unit) -> Facts:
    """Return where a latent fires, and its neighbours; empty for other units."""
    if unit.fires != unit.fires:
        return []
    images = f" of {unit.run_images:,}" if unit.run_images else ""
    density = f"{100 * unit.density:.3g} % of tokens"
    rows = [("fires", f"on {unit.fires:,.0f}{images} images, {density}")]
    for neighbour in unit.neighbours:
        name = "" if len(rows) > 1 else "decoder neighbours"
        text = neighbour.description or "no description"
        rows.append((name, f"{neighbour.number}  {neighbour.cosine:.2f}  {text}"))
    return rows


def _meaning(number: int, meaning: Meaning) -> tuple[str, str]:
    kind, whole = ("range", "positions") if meaning.is_range else ("meaning", "activation")
    text = f"{100 * meaning.share:.2g}% of the {whole}, {meaning.images} images"
    if meaning.is_range:
        text = f"{meaning.lower:.3g} to {meaning.upper:.3g}, {text}"
    if not math.isnan(meaning.null):
        text += f", null {meaning.null:.3f}"
    score = "" if math.isnan(meaning.score) else f"{meaning.score:.3f}, "
    return f"{kind} {number}", f"{meaning.text or 'no description'}  {score}{text}"


def _verdict(unit: Unit) -> str:
    label = unit.descriptions[0][0] if unit.descriptions else ""
    if label == unit.truth:
        return "right"
    return "right: a synonym" if is_a_name([label], [unit.truth])[0] else "wrong"
