"""Units and their top images in a notebook's cell, or as text in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipdissect.probe.thumbnails import NetworkInputs
from clipdissect.report import unit_facts
from clipdissect.report.overview import Histogram
from clipdissect.report.page import data_url, environment
from clipdissect.report.run import TopImage, Unit


@dataclass(frozen=True, repr=False)
class Shown:
    """What a notebook shows as HTML, and a terminal as text."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Picture:
    """An image's name, a unit's activation on it, and its thumbnail as a URL, if it has one."""

    name: str
    activation: float
    url: str = ""


@dataclass(frozen=True)
class Card:
    """A unit's texts and pictures for the template; `bars` have a text, its score and a share."""

    address: str
    title: str
    score: str
    flags: Sequence[str]
    images: Sequence[Picture]
    bars: Sequence[tuple[str, str, float]]
    facts: unit_facts.Facts = field(default_factory=list)
    histogram: Histogram | None = None

    @property
    def runners_up(self) -> list[str]:
        return [text for text, _, _ in self.bars[1:3]]


def pictures(images: Sequence[TopImage], inputs: NetworkInputs | None, most: int) -> list[Picture]:
    """Return the best images' pictures, from the run's files or made anew from the probe.

    Args:
        images: best first.
        inputs: of the run's probe and target; None if unknown.
        most: number of images.
    """
    return [
        Picture(image.name, image.activation, _url(image.file or _thumbnail(inputs, image.name)))
        for image in images[:most]
    ]


def _thumbnail(inputs: NetworkInputs | None, name: str) -> Path | None:
    return None if inputs is None else inputs.file(name)


def _url(file: Path | None) -> str:
    return "" if file is None else data_url(file)


def card(unit: Unit, images: Sequence[Picture]) -> Card:
    """Return what is shown of a unit."""
    scores = [score for _, score in unit.descriptions if not math.isnan(score)]
    low, high = min([0.0, *scores]), max(scores, default=0.0)
    bars = [
        (text, _number(score), (score - low) / (high - low) if high > low and scores else 0.0)
        for text, score in unit.descriptions
    ]
    return Card(
        address=f"{unit.layer}/{unit.number}",
        title=unit_facts.title(unit),
        score=bars[0][1] if bars else "",
        flags=unit.flags,
        images=images,
        bars=[(text, score, 0.0 if math.isnan(share) else share) for text, score, share in bars],
        facts=unit_facts.facts(unit) + unit_facts.facts_of_latent(unit),
        histogram=Histogram(unit.low, unit.high, tuple(unit.counts)) if unit.counts else None,
    )


def _number(score: float) -> str:
    return "" if math.isnan(score) else f"{score:.3f}"


def card_as_text(card: Card, histogram: unit_facts.Facts) -> str:
    """Return a card as lines of text, for a terminal."""
    flags = f"  [{', '.join(card.flags)}]" if card.flags else ""
    lines = [f"{card.address}  {card.title}{flags}"]
    lines += [f"  {text}  {score}" for text, score, _ in card.bars]
    lines += [f"  {name}: {value}" for name, value in [*card.facts, *histogram]]
    return "\n".join([*lines, *images_as_text(card.images)])


def images_as_text(images: Sequence[Picture]) -> list[str]:
    return [f"  {rank}. {i.name}  {i.activation:.3f}" for rank, i in enumerate(images, 1)]


def render(**values: Any) -> str:
    """Render the notebook's template; texts are escaped.

    Args:
        values: `notes`, `heading`, `layers` (name and cards each), `footer` and `card`, all
            optional.
    """
    empty: dict[str, Any] = {"notes": [], "heading": "", "layers": [], "footer": "", "card": None}
    return environment().get_template("notebook.html").render(**empty | values)


def frame(page: str, height: int) -> str:
    """Return a whole page inside a cell, `height` pixels high."""
    # Without it, links to a part of the page would lead to the notebook's address.
    page = page.replace("<head>", '<head><base href="about:srcdoc">', 1)
    return environment().get_template("frame.html").render(page=page, height=height)
