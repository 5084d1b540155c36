"""Show two runs or methods side by side, changed labels first.

clipdissect compare <run> <run>              writes <second run>/compare/<first run>/index.html
clipdissect compare <run> labels.csv --out page/
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clipdissect.app.commands import command_parser, exit_on_user_errors

AUTO = ("mpnet", "minilm")


@exit_on_user_errors
def main() -> None:
    parser = command_parser("compare", __doc__)
    parser.add_argument("first", help="the folder of a run, or a file of labels: A")
    parser.add_argument("second", help="the other run or file: B")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the page")
    parser.add_argument(
        "--sentence",
        default="auto",
        metavar="NAME",
        help="sentence encoder for the similarity of labels: mpnet, minilm, clip_text, none; "
        "auto is mpnet, then minilm",
    )
    parser.add_argument("--single-file", action="store_true", help="everything in index.html")
    parser.add_argument("--mb", type=float, default=30.0, help="of pictures in a single file")
    options = parser.parse_args()
    from clipdissect import report
    from clipdissect.store import Store
    from clipdissect.utils.paths import store_dir

    other = Path(options.second).expanduser()
    folder = other if other.is_dir() else other.parent
    page = report.compare(
        options.first,
        options.second,
        options.out or folder / "compare" / Path(options.first).expanduser().resolve().name,
        sentences=_sentences(options.sentence),
        store=Store(store_dir()),
        single_file=options.single_file,
        megabytes=options.mb,
    )
    print(page)


def _sentences(name: str) -> Any:
    """Build an encoder by name; `auto` is the first that is installed."""
    from clipdissect import sentence
    from clipdissect.errors import MissingResource

    if name == "none":
        return None
    if name != "auto":
        return sentence.build(name)
    for choice in AUTO:
        try:
            return sentence.build(choice)
        except MissingResource:
            print(f"{choice} isn't here (clipdissect fetch {choice})", file=sys.stderr)
    return None
