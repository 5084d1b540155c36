"""Print a unit of a run in the terminal, with its top images where the terminal can show them.

clipdissect show results/dissect/<run> layer4/720
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipdissect.report.unit import Unit

BAR = 24  # characters
IMAGE = 22
GAP = 6  # pixels
BLOCKS = " ▁▂▃▄▅▆▇█"


def main() -> None:
    """Entry point of `clipdissect show`."""
    options = _parser().parse_args()
    from clipdissect.app.print_run import console
    from clipdissect.errors import DissectError
    from clipdissect.report import load
    from clipdissect.report.unit import unit_of

    try:
        run = load(options.run)
        unit = unit_of(run, options.unit)
    except (DissectError, OSError) as error:
        from clipdissect.app.user_errors import stop

        stop(error)
    out = console()
    for part in parts(unit, options.images):
        out.print(part)
    if out.is_terminal and not options.no_pictures:
        _print_pictures(out, unit, options.images)


def parts(unit: Unit, images: int) -> list[Any]:
    """What is printed but for pictures, as rich renderables.

    Args:
        unit: which.
        images: top images at most.
    """
    from rich.text import Text

    name = unit.descriptions[0][0] if unit.descriptions else "no description"
    title = Text.assemble((f"{unit.layer}/{unit.number}  ", "dim"), (name, "bold"))
    if unit.flags:
        title.append(f"  [{', '.join(unit.flags)}]", "yellow")
    return [title, _scores(unit), _known(unit), _names(unit, images)]


def _scores(unit: Unit) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), show_header=False)
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    scores = [score for _, score in unit.descriptions]
    low, high = min([0.0, *scores]), max(scores, default=1.0)
    for text, score in unit.descriptions:
        length = round(BAR * (score - low) / (high - low)) if high > low else 0
        table.add_row(Text(text), f"{score:.3f}", Text("█" * length, "blue"))
    return table


def _known(unit: Unit) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(style="dim")
    table.add_column()
    if unit.margin == unit.margin:
        table.add_row("margin", f"{unit.margin:.3f}")
    if unit.null == unit.null:
        table.add_row("null", f"{unit.null:.3f} (best score with shuffled images)")
    if unit.truth:
        table.add_row("class", Text(f"{unit.truth} ({_verdict(unit)})"))
    for name, label in unit.others.items():
        table.add_row(Text(name), Text(label or "-"))
    if unit.counts:
        most = max(unit.counts)
        # Never nothing for a bin that has images.
        line = "".join(BLOCKS[-(-8 * count // most)] for count in unit.counts)
        table.add_row("activation", f"{unit.low:.3g} {line} {unit.high:.3g}")
    return table


def _verdict(unit: Unit) -> str:
    """Whether the description is the class's name, or any of its names."""
    from clipdissect.datasets.class_names import is_a_name

    label = unit.descriptions[0][0] if unit.descriptions else ""
    near = is_a_name([label], [unit.truth])[0]
    return "right" if label == unit.truth else "right: a synonym" if near else "wrong"


def _names(unit: Unit, images: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(justify="right", style="dim")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for rank, image in enumerate(unit.images[:images], 1):
        table.add_row(str(rank), f"{image.activation:.3f}", Text(image.name))
    return table


def _print_pictures(out: Any, unit: Unit, images: int) -> None:
    """The thumbnails in one row: by the terminal's own graphics, or as coloured half blocks."""
    from PIL import Image

    files = [image.file for image in unit.images[:images] if image.file]
    if not files:
        return
    pictures = [Image.open(file).convert("RGB") for file in files]
    side = pictures[0].width
    row = Image.new("RGB", ((side + GAP) * len(pictures) - GAP, side), "white")
    for place, picture in enumerate(pictures):
        row.paste(picture, (place * (side + GAP), 0))
    width = min(out.width, IMAGE * len(pictures))
    # Terminals that don't answer its questions are no news to the user.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    try:
        from textual_image.renderable import Image as Inline  # asks the terminal what it can

        out.print(Inline(row, width=width, height="auto"))
    except Exception as error:  # whatever terminals answer to that
        print(f"no pictures in this terminal ({type(error).__name__}: {error})", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipdissect show", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("unit", help="LAYER/NUMBER")
    parser.add_argument("--images", type=int, default=5, help="top images at most")
    parser.add_argument("--no-pictures", action="store_true", help="only the images' names")
    return parser


if __name__ == "__main__":
    main()
