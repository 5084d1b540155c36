"""Reproduce the paper's numbers that follow from published label files, to four digits.

Tables 1 and 2 and Fig. 3, for Network Dissection's and MILAN's labels. Needs the label files and
the paper's sentence encoder (clipdissect fetch mpnet). Writes published.md, published.csv and
their manifest, published.json. Exits with 1 where a number differs, with 2 where it can't run.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clipdissect.app.paper.published_checks import Check

COLUMNS = (
    "table",
    "row",
    "metric",
    "paper",
    "ours",
    "95 % interval",
    "difference",
    "equal",
    "note",
)


def main() -> None:
    """Entry point of `clipdissect check_published`."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from clipdissect.errors import DissectError

    try:
        found = run(Path(options.data).expanduser(), Path(options.out).expanduser())
    except (DissectError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for check in found:
        said = "not printed" if check.paper is None else f"{check.paper:.4f}"
        print(f"{check.table:<7} {check.row:<19} {check.metric:<10} expected {said:<11} "
              f"got {check.ours:.4f}  {_verdict(check)}")  # fmt: skip
    wrong = [check for check in found if not check.agrees]
    printed = sum(check.paper is not None for check in found)
    print(f"{printed - len(wrong)} of {printed} printed numbers agree to four digits; "
          f"tables: {Path(options.out) / 'published.md'}")  # fmt: skip
    sys.exit(1 if wrong else 0)


def run(data: Path, out: Path) -> list[Check]:
    """Compute everything and write the table and its manifest.

    Args:
        data: the folder with `published/` and `concepts/`.
        out: where the files go.

    Raises:
        MissingResource: no label files, or no mpnet.
    """
    from clipdissect import sentence
    from clipdissect.app.paper.published_checks import FILES, checks
    from clipdissect.errors import MissingResource
    from clipdissect.results.run_files import write_json
    from clipdissect.store import Store
    from clipdissect.utils.paths import store_dir

    absent = [
        str((data / name).absolute()) for name in FILES.values() if not (data / name).is_file()
    ]
    if absent:
        remedy = "give the folder that has published/ and concepts/: --data FOLDER"
        raise MissingResource("published label files", absent, remedy)
    mpnet = sentence.build("mpnet")
    found = checks(data, mpnet, Store(store_dir()))
    write_tables(found, out)
    write_json(out / "published.json", _manifest(data, mpnet))
    return found


def write_tables(found: Sequence[Check], out: Path) -> None:
    """Write published.md and published.csv."""
    import pandas as pd

    from clipdissect.results.run_files import write_table
    from clipdissect.utils.files import write_text

    rows = [_cells(check) for check in found]
    write_table(out / "published.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(out / "published.md", f"{HEAD}\n{text}\n")


HEAD = """# The paper's numbers from published labels

Computed by `scripts/check_published` from the label files that were published with the paper and
with Network Dissection and MILAN; what was run on what is in `published.json`. Intervals are
percentile bootstrap intervals over units.
"""


def _cells(check: Check) -> tuple[str, ...]:
    known = check.paper is not None
    between = "" if check.low is None else f"{check.low:.4f} to {check.high:.4f}"
    return (
        check.table, check.row, check.metric,
        f"{check.paper:.4f}" if known else "not printed", f"{check.ours:.4f}", between,
        f"{check.ours - (check.paper or 0):+.5f}" if known else "", _verdict(check), check.note,
    )  # fmt: skip


def _verdict(check: Check) -> str:
    if check.paper is None:
        return "-"
    return "yes" if check.agrees else "NO"


def _manifest(data: Path, mpnet: Any) -> dict[str, Any]:
    """What was run on what."""
    from clipdissect.app.paper.published_checks import FILES
    from clipdissect.results.provenance import git_state, versions
    from clipdissect.utils import hashing

    return {
        "command": "scripts/check_published",
        "inputs": {name: {"sha256": hashing.hash_file(data / name)} for name in FILES.values()},
        "sentence encoder": {"name": mpnet.name, "digest": mpnet.digest},
        "versions": {name: v for name, v in versions().items() if name != "platform"},
        "git": git_state(Path(__file__).parents[3]),
    }


def _parser() -> argparse.ArgumentParser:
    shared = Path(os.environ.get("CLIPDISSECT_SHARED", Path(__file__).parents[4] / "shared"))
    parser = argparse.ArgumentParser(
        prog="clipdissect check_published", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="FOLDER", default=str(shared / "data"),
        help="with published/ and concepts/ (default: data in $CLIPDISSECT_SHARED, else in shared/ "
        "beside this repository)",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        default="results/tables",
        help="where the tables go (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
