"""Reproduce the paper's numbers that follow from published label files, to four digits.

Tables 1 and 2 and Fig. 3, for Network Dissection's and MILAN's labels. Needs the label files and
the paper's sentence encoder (clipdissect fetch mpnet). Writes published.md, published.csv and
their manifest, published.json. Exits with 1 if a number differs, with 2 if it can't run.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors, write_comparison
from clipdissect.app.launch import set_up_logging

if TYPE_CHECKING:
    from clipdissect.app.published_checks import Check

HEADER = [
    "table",
    "row",
    "metric",
    "paper",
    "ours",
    "95 % interval",
    "difference",
    "equal",
    "note",
]


@exit_on_user_errors
def main() -> None:
    options = _parser().parse_args()
    set_up_logging(logging.WARNING)
    checks = run(Path(options.data).expanduser(), Path(options.out).expanduser())
    for check in checks:
        print(
            f"{check.table:<7} {check.row:<19} {check.metric:<10} expected {_paper(check):<11} "
            f"got {check.ours:.4f}  {_verdict(check)}"
        )
    wrong = [check for check in checks if not check.agrees]
    printed = sum(check.paper is not None for check in checks)
    print(
        f"{printed - len(wrong)} of {printed} printed numbers agree to four digits; "
        f"tables: {Path(options.out) / 'published.md'}"
    )
    sys.exit(1 if wrong else 0)


def run(data: Path, out: Path) -> list[Check]:
    """Write the table of all checks and its manifest; `data` has `published/`, `concepts/`."""
    from clipdissect import sentence
    from clipdissect.app.published_checks import FILES, checks
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
    results = checks(data, mpnet, Store(store_dir()))
    write_tables(results, out)
    write_json(out / "published.json", _manifest(data, mpnet))
    return results


def write_tables(checks: Sequence[Check], out: Path) -> None:
    write_comparison(out / "published", HEADER, [_cells(check) for check in checks], HEAD)


HEAD = """The paper's numbers from published labels

Computed by `scripts/check_published` from the label files that were published with the paper and
with Network Dissection and MILAN; `published.json` lists inputs and versions. Intervals are
percentile bootstrap intervals over units."""


def _cells(check: Check) -> tuple[str, ...]:
    return (
        check.table,
        check.row,
        check.metric,
        _paper(check),
        f"{check.ours:.4f}",
        "" if check.low is None else f"{check.low:.4f} to {check.high:.4f}",
        "" if check.paper is None else f"{check.ours - check.paper:+.5f}",
        _verdict(check),
        check.note,
    )


def _paper(check: Check) -> str:
    return "not printed" if check.paper is None else f"{check.paper:.4f}"


def _verdict(check: Check) -> str:
    if check.paper is None:
        return "-"
    return "yes" if check.agrees else "NO"


def _manifest(data: Path, mpnet: Any) -> dict[str, Any]:
    from clipdissect.app.published_checks import FILES
    from clipdissect.results.manifest import git_state, versions
    from clipdissect.utils import hashing

    return {
        "command": "scripts/check_published",
        "inputs": {name: {"sha256": hashing.hash_file(data / name)} for name in FILES.values()},
        "sentence encoder": {"name": mpnet.name, "digest": mpnet.digest},
        "versions": {name: v for name, v in versions().items() if name != "platform"},
        "git": git_state(),
    }


def _parser() -> argparse.ArgumentParser:
    shared = Path(os.environ.get("CLIPDISSECT_SHARED", Path(__file__).parents[4] / "shared"))
    parser = command_parser("check_published", __doc__)
    data = (
        "with published/ and concepts/ (default: data in $CLIPDISSECT_SHARED, else in shared/ "
        "next to this repository)"
    )
    out = "where the tables go (%(default)s)"
    parser.add_argument("--data", metavar="FOLDER", default=str(shared / "data"), help=data)
    parser.add_argument("--out", metavar="FOLDER", default="results/tables", help=out)
    return parser
