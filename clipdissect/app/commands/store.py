"""List, verify and prune the feature store and the rest of the user cache.

clipdissect store                          what there is: size, age, when it was used last
clipdissect store verify                   read every file and compare checksums
clipdissect store prune --older 30d        delete what wasn't used for 30 days (also h, w)
clipdissect store prune --to 10GB          delete what was used longest ago until 10 GB are left
clipdissect store prune --incomplete       delete what interrupted runs left
clipdissect store prune --fetched NAME     delete a download, which nothing else deletes
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipdissect.utils.files import human_size

if TYPE_CHECKING:
    from clipdissect.store import Item, Store

DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def main() -> None:
    """Entry point of `clipdissect store`."""
    options = _parser().parse_args()
    from clipdissect.app.user_errors import stop
    from clipdissect.errors import DissectError
    from clipdissect.store import Store
    from clipdissect.utils.paths import cache_dir, store_dir

    store = Store(Path(options.store).expanduser() if options.store else store_dir())
    cache = None if options.store else cache_dir()
    try:
        _check(store.root, bool(options.store))
        if options.action == "verify":
            sys.exit(_verify(store))
        if options.action == "prune":
            _prune(store, cache, options)
        else:
            _list(store, cache)
    except (DissectError, OSError) as error:
        stop(error)


def _check(root: Path, must_exist: bool) -> None:
    """Raise a DissectError for a path that is no folder, or isn't there though it was given."""
    from clipdissect.errors import DissectError

    if root.exists() and not root.is_dir():
        raise DissectError(f"{root} is a file; a store is a folder")
    if must_exist and not root.exists():
        raise DissectError(f"there is no store: {root}")


def days(text: str) -> float:
    """A duration such as `30d`, `12h` or `2w`, in days.

    Raises:
        argparse.ArgumentTypeError: another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no duration; write 30d, 12h or 2w")
    return float(match.group(1)) * DAYS[match.group(2)]


def size(text: str) -> int:
    """A size such as `10GB`, in bytes.

    Raises:
        argparse.ArgumentTypeError: another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    if match is None or match.group(2) not in BYTES:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write 500MB or 10GB")
    return int(float(match.group(1)) * BYTES[match.group(2)])


def ago(then: float) -> str:
    """How long ago a moment was, for people."""
    left = max(time.time() - then, 0)
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if left >= seconds:
            return f"{left / seconds:.0f} {unit}"
    return f"{left:.0f} s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipdissect store", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("action", nargs="?", choices=("list", "verify", "prune"), default="list")
    parser.add_argument("--store", metavar="FOLDER", help="this store alone, not the user cache's")
    parser.add_argument("--older", type=days, metavar="30d", help="not used for so long")
    parser.add_argument("--to", type=size, metavar="10GB", help="until no more is left")
    parser.add_argument("--incomplete", action="store_true", help="never finished")
    parser.add_argument("--fetched", metavar="NAME", help="what was downloaded under this name")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    return parser


def _list(store: Store, cache: Path | None) -> None:
    from clipdissect.store import inventory

    items = inventory(store, cache)
    _print(items)
    for kind, where in ((None, store.root), (cache, cache)):
        own = [item for item in items if (item.path is None) == (kind is None)]
        if where is not None:
            noun = "entries" if kind is None else "other items"
            print(f"{len(own)} {noun}, {human_size(sum(item.size for item in own))}, in {where}")


def _verify(store: Store) -> int:
    from clipdissect.store import inventory, verify

    problems = verify(store)
    for key, said in problems.items():
        for line in said:
            print(f"{key}: {line}")
    print(f"{len(inventory(store))} entries read, {len(problems)} with something wrong "
          f"(it is computed again when it is needed)")  # fmt: skip
    return 1 if problems else 0


def _prune(store: Store, cache: Path | None, options: argparse.Namespace) -> None:
    from clipdissect.store import prune

    if not any((options.older is not None, options.to is not None, options.incomplete,
                options.fetched)):  # fmt: skip
        print("error: say what to prune: --older 30d, --to 10GB, --incomplete or --fetched NAME",
              file=sys.stderr)  # fmt: skip
        sys.exit(2)
    gone = prune(
        store, cache=cache, older_days=options.older, to_bytes=options.to,
        incomplete=options.incomplete, fetched=options.fetched, dry_run=options.dry_run,
    )  # fmt: skip
    _print(gone)
    done = "would go" if options.dry_run else "deleted"
    print(f"{len(gone)} items {done}, {human_size(sum(item.size for item in gone))}")


def _print(items: Sequence[Item]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not items:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("what", "of", "probe", "images", "size", "age", "used", "state", "key"):
        table.add_column(name, justify="right" if name in ("images", "size") else "left",
                         overflow="fold")  # fmt: skip
    for item in items:
        about = item.about
        images = about.get("images", about.get("texts", ""))
        table.add_row(
            str(about.get("what", "?")), str(about.get("of", "")), str(about.get("probe", "")),
            str(images), human_size(item.size), ago(item.written), f"{ago(item.used)} ago",
            "" if item.complete else "unfinished",
            item.key if item.is_fetched else item.key[:8],
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(table)


if __name__ == "__main__":
    main()
