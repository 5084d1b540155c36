"""Show runs or methods side by side, changed labels first.

clipdissect compare <run> <run> ...          writes <last run>/compare/<first run>/index.html
clipdissect compare <multirun>               compares its jobs: <multirun>/compare/index.html
clipdissect compare <run> labels.csv --out page/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors

if TYPE_CHECKING:
    from clipdissect.report import Comparison

AUTO = ("mpnet", "minilm")


@exit_on_user_errors
def main() -> None:
    parser = command_parser("compare", __doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run or of a multirun, or a file of labels: A, B, ...",
    )
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
    from clipdissect.report.page import check_folder
    from clipdissect.store import Store
    from clipdissect.utils.paths import store_dir

    out = Path(options.out or _default_folder(options.runs)).expanduser()
    check_folder(out)  # before the slow part
    sentences = sentences_of(options.sentence)
    compared = report.Comparison.of(options.runs, sentences, Store(store_dir()))
    page = compared.write(out, options.single_file, options.mb)
    _print(compared)
    left_out = [str(job) for run in options.runs for job in report.undescribed_jobs(run)]
    if left_out:
        print(f"left out, as they have no descriptions: {', '.join(left_out)}")
    print(page)


def _default_folder(runs: Sequence[str]) -> Path:
    first, last = (Path(run).expanduser() for run in (runs[0], runs[-1]))
    folder = (last if last.is_dir() else last.parent) / "compare"
    if len(runs) == 1:
        return folder
    more = f"_and_{len(runs) - 2}_more" if len(runs) > 2 else ""
    return folder / f"{first.resolve().name}{more}"


def _print(compared: Comparison) -> None:
    """Print a row per run: right labels, and labels that equal each run's, in percent."""
    from clipdissect.app.console import RIGHT, console, text_table
    from clipdissect.report.compare import correct_counts

    right = [[correct_counts(run, layer) for layer in compared.layers] for run in compared.runs]
    has_truth = any(any(counts) for counts in right)
    rows = []
    for number, pairs in enumerate(compared.pairs()):
        known = [counts[0] for counts in right[number] if counts is not None]
        cells = [_agreement(*pair, compared.units) for pair in pairs]
        cells[number] = "-"
        truth = [str(sum(known)) if known else "-"] if has_truth else []
        rows.append([compared.tags[number], compared.names[number], *truth, *cells])
    same = [f"same as {tag}" for tag in compared.tags]
    numbers = [*(["right"] if has_truth else []), *same]
    columns = {"": {}, "run": {"overflow": "fold"}} | {
        n: {**RIGHT, "no_wrap": True} for n in numbers
    }
    title = f"{compared.units} units; {compared.same} have the same description in all runs"
    console().print(text_table(columns, rows, title, padding=1))
    if compared.encoder:
        print(f"(in brackets: mean cosine of the descriptions, {compared.encoder})")


def _agreement(same: int, cosine: float | None, units: int) -> str:
    share = f"{100 * same / units:.1f} %"
    return share if cosine is None else f"{share} ({cosine:.2f})"


def sentences_of(name: str) -> Any:
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
