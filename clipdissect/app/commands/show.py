"""Print a unit of a run in the terminal, with its top images where the terminal can show them.

clipdissect show results/dissect/<run> layer4/720
"""

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors
from clipdissect.app.console import RIGHT, console, text_table

if TYPE_CHECKING:
    from clipdissect.report.run import Meaning, Unit

BAR = 24  # characters
IMAGE = 22  # characters
GAP = 6  # pixels
BLOCKS = " ▁▂▃▄▅▆▇█"


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

    name = unit.descriptions[0][0] if unit.descriptions else "no description"
    if unit.meanings and not unit.meanings[0].is_range:
        name = " | ".join(meaning.text for meaning in unit.meanings)
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
        _table({"name": {"style": "dim"}, "value": {}}, _facts(unit)),
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


def _meaning_row(number: int, meaning: Meaning) -> tuple[str, str]:
    kind, whole = ("range", "positions") if meaning.is_range else ("meaning", "activation")
    facts = f"{100 * meaning.share:.2g}% of the {whole}, {meaning.images} images"
    if meaning.is_range:
        facts = f"{meaning.lower:.3g} to {meaning.upper:.3g}, {facts}"
    if not math.isnan(meaning.null):
        facts += f", null {meaning.null:.3f}"
    score = "" if math.isnan(meaning.score) else f"{meaning.score:.3f}, "
    return f"{kind} {number}", f"{meaning.text or 'no description'}  {score}{facts}"


def _facts(unit: Unit) -> list[tuple[str, str]]:
    from clipdissect.report.scores import score_of

    rows = [_meaning_row(number, meaning) for number, meaning in enumerate(unit.meanings, 1)]
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
    if unit.counts:
        most = max(unit.counts)
        # Round up, so that every bin with images has a visible block.
        histogram = "".join(BLOCKS[-(-8 * count // most)] for count in unit.counts)
        rows.append(("activation", f"{unit.low:.3g} {histogram} {unit.high:.3g}"))
    return rows + _facts_of_latent(unit)


def _facts_of_latent(unit: Unit) -> list[tuple[str, str]]:
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


def _verdict(unit: Unit) -> str:
    from clipdissect.datasets.class_names import is_a_name

    label = unit.descriptions[0][0] if unit.descriptions else ""
    if label == unit.truth:
        return "right"
    return "right: a synonym" if is_a_name([label], [unit.truth])[0] else "wrong"


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
