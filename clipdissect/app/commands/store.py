"""List, verify and prune the feature store and the rest of the user cache.

clipdissect store                          list entries: size, age, last use
clipdissect store verify                   read every file and compare checksums
clipdissect store prune --older 30d        delete entries not used for 30 days (also h, w)
clipdissect store prune --to 10GB          delete the least recently used down to 10 GB
clipdissect store prune --incomplete       delete the files of interrupted runs
clipdissect store prune --fetched NAME     delete a download (no other option does)
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipdissect.app.commands import command_parser, exit_on_user_errors
from clipdissect.app.console import RIGHT, console, text_table
from clipdissect.utils.files import human_size

if TYPE_CHECKING:
    from clipdissect.store import Item, Store

DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@exit_on_user_errors
def main() -> None:
    options = _parser().parse_args()
    from clipdissect.errors import DissectError
    from clipdissect.store import Store
    from clipdissect.utils.paths import cache_dir, store_dir

    store = Store(Path(options.store).expanduser() if options.store else store_dir())
    cache = None if options.store else cache_dir()
    if store.root.exists() and not store.root.is_dir():
        raise DissectError(f"{store.root} is a file; a store is a folder")
    if options.store and not store.root.exists():
        raise DissectError(f"there is no store: {store.root}")
    if options.action == "verify":
        sys.exit(_verify(store))
    if options.action == "prune":
        _prune(store, cache, options)
    else:
        _list(store, cache)


def days(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no duration; write 30d, 12h or 2w")
    return float(match.group(1)) * DAYS[match.group(2)]


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    if match is None or match.group(2) not in BYTES:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write 500MB or 10GB")
    return int(float(match.group(1)) * BYTES[match.group(2)])


def ago(then: float) -> str:
    elapsed = max(time.time() - then, 0)
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if elapsed >= seconds:
            return f"{elapsed / seconds:.0f} {unit}"
    return f"{elapsed:.0f} s"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("store", __doc__)
    parser.add_argument("action", nargs="?", choices=("list", "verify", "prune"), default="list")
    parser.add_argument("--store", metavar="FOLDER", help="this store instead of the user cache")
    parser.add_argument("--older", type=days, metavar="30d", help="entries not used for this long")
    parser.add_argument(
        "--to", type=size, metavar="10GB", help="least recently used entries beyond this size"
    )
    parser.add_argument("--incomplete", action="store_true", help="files of interrupted runs")
    parser.add_argument("--fetched", metavar="NAME", help="a download, by name")
    parser.add_argument("--dry-run", action="store_true", help="list deletions without deleting")
    return parser


def _list(store: Store, cache: Path | None) -> None:
    from clipdissect.store import inventory

    items = inventory(store, cache)
    _print(items)
    for noun, folder in (("entries", store.root), ("other items", cache)):
        group = [item for item in items if (item.path is None) == (noun == "entries")]
        if folder is not None:
            print(
                f"{len(group)} {noun}, {human_size(sum(item.size for item in group))}, in {folder}"
            )


def _verify(store: Store) -> int:
    from clipdissect.store import inventory, verify

    problems = verify(store)
    for key, lines in problems.items():
        for line in lines:
            print(f"{key}: {line}")
    print(
        f"{len(inventory(store))} entries read, {len(problems)} with something wrong "
        "(it is computed again when it is needed)"
    )
    return 1 if problems else 0


def _prune(store: Store, cache: Path | None, options: argparse.Namespace) -> None:
    from clipdissect.errors import DissectError
    from clipdissect.store import prune

    is_limited = options.older is not None or options.to is not None
    if not (is_limited or options.incomplete or options.fetched):
        raise DissectError(
            "nothing selected to prune: give --older 30d, --to 10GB, --incomplete or --fetched NAME"
        )
    pruned = prune(
        store,
        cache=cache,
        older_days=options.older,
        to_bytes=options.to,
        incomplete=options.incomplete,
        fetched=options.fetched,
        dry_run=options.dry_run,
    )
    _print(pruned)
    verb = "would go" if options.dry_run else "deleted"
    print(f"{len(pruned)} items {verb}, {human_size(sum(item.size for item in pruned))}")


def _print(items: Sequence[Item]) -> None:
    if not items:
        return
    columns = {
        name: {**(RIGHT if name in ("images", "size") else {}), "overflow": "fold"}
        for name in ("what", "of", "probe", "images", "size", "age", "used", "state", "key")
    }
    rows = [
        (
            item.about.get("what", "?"),
            item.about.get("of", ""),
            item.about.get("probe", ""),
            item.about.get("images", item.about.get("texts", "")),
            human_size(item.size),
            ago(item.written),
            f"{ago(item.used)} ago",
            "" if item.complete else "unfinished",
            item.key if item.is_fetched else item.key[:8],
        )
        for item in items
    ]
    console(160).print(text_table(columns, rows, padding=1, pad_edge=False))
