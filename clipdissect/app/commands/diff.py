"""Say which units changed their meaning between two checkpoints of a network.

clipdissect diff results/dissect/<before> results/dissect/<after>
clipdissect diff BEFORE AFTER --match correlation --csv changed.csv

A line per layer, the units that changed most, and the descriptions that more or fewer units have.
`clipdissect compare` shows two runs, of any methods, as a page with pictures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors, output_file
from clipdissect.app.console import RIGHT, console, print_lines, text_table

if TYPE_CHECKING:
    import pandas as pd

    from clipdissect.explore.diff import Difference

TEXTS = 8  # descriptions that more, and that fewer, units have


@exit_on_user_errors
def main() -> None:
    parser = command_parser("diff", __doc__)
    parser.add_argument("first", help="the folder of a run: before")
    parser.add_argument("second", help="the folder of another run: after")
    parser.add_argument(
        "--match",
        default="index",
        metavar="HOW",
        help="units by index, or by the correlation of their activations on the same images",
    )
    parser.add_argument("--layer", help="one of the layers of both; all by default")
    parser.add_argument("--top", type=int, default=20, help="changed units in the table")
    parser.add_argument(
        "--sentence",
        default="auto",
        metavar="NAME",
        help="sentence encoder by which descriptions are near-synonyms: mpnet, minilm, clip_text, "
        "none; auto is mpnet, then minilm",
    )
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="write a row per unit")
    options = parser.parse_args()
    from clipdissect.app.commands.compare import sentences_of
    from clipdissect.app.run_result import result_of_run
    from clipdissect.explore.matching import CORRELATION
    from clipdissect.explore.result import load
    from clipdissect.results.run_files import write_table

    read = result_of_run if options.match == CORRELATION else load
    first, second = read(options.first), read(options.second)
    sentences = sentences_of(options.sentence)
    difference = first.diff(second, options.match, sentences, options.layer)
    _print(difference, options.top)
    if options.csv:
        write_table(options.csv, difference.units)
        print(f"table: {options.csv}")


def _print(difference: Difference, top: int) -> None:
    out = console()
    changed = difference.changed
    if len(changed) and top > 0:
        out.print(_changed_table(changed, top))
    print_lines(out, [*_texts(difference.texts), *difference.summary.splitlines()])


def _changed_table(changed: pd.DataFrame, top: int) -> Any:
    text = {"max_width": 36, "no_wrap": True, "overflow": "ellipsis"}
    columns: dict[str, dict[str, Any]] = {
        "layer": {"no_wrap": True},
        "unit": RIGHT,
        "before": text,
        "after": text,
        "cosine": RIGHT,
        "same images": RIGHT,
    }
    is_matched = bool(changed["correlation"].notna().any())
    columns |= {"correlation": RIGHT} if is_matched else {}
    cells = [
        (
            row["layer"],
            row["unit"]
            if row["unit"] == row["other_unit"]
            else f"{row['unit']} > {row['other_unit']}",
            row["description"],
            row["other_description"],
            _number(row["cosine"]),
            _number(row["image_overlap"]),
            *([_number(row["correlation"])] if is_matched else []),
        )
        for _, row in changed.head(top).iterrows()
    ]
    return text_table(columns, cells, f"units whose meaning changed: {len(changed)}")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _texts(texts: pd.DataFrame) -> list[str]:
    more, fewer = texts[texts["change"] > 0], texts[texts["change"] < 0]
    return [
        f"{name} units: " + ", ".join(_text(row) for _, row in table.head(TEXTS).iterrows())
        for name, table in (("more", more), ("fewer", fewer))
        if len(table)
    ]


def _text(row: pd.Series[Any]) -> str:
    return f"{row['description']} ({row['before']} to {row['after']})"
