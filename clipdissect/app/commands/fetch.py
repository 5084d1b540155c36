"""Get data and weights: Broden, CLIP, concept lists, the sentence encoder, ...

Without a name it lists what there is. Each item goes to where the library looks for it. Downloads
are resumed, checked against digests where they are known, and put in place when complete.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clipdissect.utils.files import human_size

if TYPE_CHECKING:
    from clipdissect.fetch import Fetched, Item


def main() -> None:
    """Entry point of `clipdissect fetch`."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("clipdissect").setLevel(logging.INFO)
    if not options.what:
        print(listing())
        return
    sys.exit(_fetch_all(options))


def listing() -> str:
    """All items, with size, licence, and where they are if they are there."""
    from clipdissect.fetch import ITEMS

    width = max(map(len, ITEMS))
    lines = []
    for item in ITEMS.values():
        there = item.find()
        lines.append(f"{item.name:<{width}}  {human_size(item.size):>7}  {item.what}")
        lines.append(f"{'':<{width}}  {'':>7}  licence: {item.licence}")
        if there:
            lines.append(f"{'':<{width}}  {'':>7}  there already: {there}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    prog = sys.argv[0] if " " in sys.argv[0] else "clipdissect fetch"
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="items; none: list them")
    parser.add_argument(
        "--folder", type=Path, help="put them below this folder, not where the library looks"
    )
    parser.add_argument(
        "--from-file", action="append", default=[], metavar="FILE",
        help="take the item from a local file or archive, or a folder of files; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--from-url", action="append", default=[], metavar="URL",
        help="take it from an address of your own; one that ends in / is a folder of files",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="get anew what is there already")
    return parser


def _fetch_all(options: argparse.Namespace) -> int:
    """Get each item; one that fails doesn't stop the others. Returns the exit code."""
    from clipdissect.errors import DissectError, unknown
    from clipdissect.fetch import ITEMS, fetch
    from clipdissect.fetch.own import address

    code = 0
    try:
        for name in options.what:
            if name not in ITEMS:
                raise unknown("item", name, ITEMS)
        if len(options.what) > 1 and (options.from_file or options.from_url):
            raise DissectError("--from-file and --from-url go with one item")
        own = [*map(address, options.from_file), *options.from_url]
    except DissectError as error:
        return _tell(error)
    for name in options.what:
        try:
            got = fetch(name, options.folder, own, options.force)
            _report(name, got, options.folder)
        except DissectError as error:
            code = _tell(error)
        except KeyboardInterrupt:
            print("interrupted; what has come is kept: the same command goes on", file=sys.stderr)
            return 130
    return code


def _tell(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _report(name: str, fetched: Fetched, folder: Path | None) -> None:
    from clipdissect.fetch import ITEMS

    if fetched.was_there:
        print(f"{name} is there already: {fetched.path} (--force gets it anew)")
        return
    for got in fetched.files:
        digest = "digest as expected" if got.known else "digest not known beforehand"
        print(f"  {got.source}\n    {digest}; got sha256 {got.sha256}")
    print(f"{name} is in {fetched.path}")
    if fetched.aside:
        print(f"  what was there was incomplete, and is now {fetched.aside}")
    item = ITEMS[name]
    print(f"  licence: {item.licence}\n  to use it: {_use(item, fetched.path, folder)}")


def _use(item: Item, path: Path, folder: Path | None) -> str:
    """The command that uses an item, from where it is."""
    from clipdissect.utils.paths import data_places

    use = item.use.format(path=path)
    if folder is None:
        return use
    if item.bases is data_places:
        return f"CLIPDISSECT_DATA={shlex.quote(str(folder.expanduser().absolute()))} {use}"
    return f"{use}, with the path above (the library doesn't look there by itself)"


if __name__ == "__main__":
    main()
