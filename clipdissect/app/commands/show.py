"""Print a unit of a run in the terminal, with its top images where the terminal can show them.

clipdissect show results/dissect/<run> layer4/720
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors
from clipdissect.app.console import RIGHT, console, text_table

if TYPE_CHECKING:
    from clipdissect.report.run import Unit

BAR = 24  # characters
IMAGE = 22  # characters
GAP = 6  # pixels


@exit_on_user_errors
def main() -> None:
    parser = command_parser("show", __doc__)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("unit", help="LAYER/NUMBER")
    parser.add_argument("--images", type=int, default=5, help="top images at most")
    parser.add_argument("--no-pictures", action="store_true", help="only the images' names")
    options = parser.parse_args()
    from clipdissect.report import load
    from clipdissect.report.run import unit_of

    unit = unit_of(load(options.run), options.unit)
    out = console()
    for part in parts(unit, options.images):
        out.print(part)
    if out.is_terminal and not options.no_pictures:
        _print_pictures(out, unit, options.images)


def parts(unit: Unit, images: int) -> list[Any]:
    """Return everything except thumbnails as rich renderables, with `images` rows at most."""
    from rich.text import Text

    from clipdissect.report import unit_facts

    name = unit_facts.title(unit)
    facts = unit_facts.facts(unit) + unit_facts.histogram(unit) + unit_facts.facts_of_latent(unit)
    title = Text.assemble((f"{unit.layer}/{unit.number}  ", "dim"), (name, "bold"))
    if unit.flags:
        title.append(f"  [{', '.join(unit.flags)}]", "yellow")
    top = [
        (rank, f"{image.activation:.3f}", image.name, _mark(image.meaning))
        for rank, image in enumerate(unit.images[:images], 1)
    ]
    rank = {**RIGHT, "style": "dim"}
    return [
        title,
        _table({"text": {}, "score": RIGHT, "bar": {}}, _scores(unit)),
        _table({"name": {"style": "dim"}, "value": {}}, facts),
        _table({"rank": rank, "activation": RIGHT, "image": {"overflow": "fold"}, "of": {}}, top),
    ]


def _mark(meaning: int) -> str:
    return f"meaning {meaning}" if meaning else ""


def _table(columns: dict[str, Any], rows: Any) -> Any:
    return text_table(columns, rows, padding=1, show_header=False)


def _scores(unit: Unit) -> list[tuple[Any, ...]]:
    from rich.text import Text

    scores = [score for _, score in unit.descriptions]
    low, high = min([0.0, *scores]), max(scores, default=1.0)
    rows: list[tuple[Any, ...]] = []
    for text, score in unit.descriptions:
        length = round(BAR * (score - low) / (high - low)) if high > low else 0
        rows.append((text, f"{score:.3f}", Text("█" * length, "blue")))
    return rows


def _print_pictures(out: Any, unit: Unit, images: int) -> None:
    """Print a row of thumbnails as terminal graphics or as coloured half blocks."""
    from PIL import Image

    files = [image.file for image in unit.images[:images] if image.file]
    if not files:
        return
    pictures = [Image.open(file).convert("RGB") for file in files]
    side = pictures[0].width
    row = Image.new("RGB", ((side + GAP) * len(pictures) - GAP, side), "white")
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * (side + GAP), 0))
    # textual_image warns about terminals that don't answer its queries.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    try:
        from textual_image.renderable import Image as Inline  # queries the terminal

        out.print(Inline(row, width=min(out.width, IMAGE * len(pictures)), height="auto"))
    except Exception as error:  # terminals answer in many ways
        print(f"no pictures in this terminal ({type(error).__name__}: {error})", file=sys.stderr)
