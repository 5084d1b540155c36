"""Get data and weights: Broden, CLIP, concept lists, the sentence encoder, ...

Without a name it lists all items. Each item goes to where the library looks for it. Downloads are
checked against known digests, and moved into place when complete; where none is published, the
SHA-256 is printed.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors
from clipdissect.app.launch import set_up_logging
from clipdissect.errors import DissectError, unknown
from clipdissect.utils.files import human_size

if TYPE_CHECKING:
    from clipdissect.fetch import Fetched, Item


@exit_on_user_errors
def main() -> None:
    options = _parser().parse_args()
    set_up_logging(logging.INFO)
    if not options.items:
        print(listing())
        return
    sys.exit(_fetch_all(options))


def listing() -> str:
    from clipdissect.fetch import ITEMS

    width = max(map(len, ITEMS))
    lines = []
    indent = " " * (width + 11)
    for item in ITEMS.values():
        path = item.find()
        lines.append(f"{item.name:<{width}}  {human_size(item.size):>7}  {item.description}")
        lines.append(f"{indent}licence: {item.licence}")
        if path:
            lines.append(f"{indent}there already: {path}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("fetch", __doc__)
    parser.add_argument("items", nargs="*", help="items; none: list them")
    folder = "put them below this folder, not where the library looks"
    parser.add_argument("--folder", type=Path, help=folder)
    many: dict[str, Any] = {"action": "append", "default": []}
    file = "take the item from a local file or archive, or a folder of files; may be repeated"
    parser.add_argument("--from-file", metavar="FILE", help=file, **many)
    url = "take it from your own URL; one that ends in / is a folder of files"
    parser.add_argument("--from-url", metavar="URL", help=url, **many)
    parser.add_argument("--force", action="store_true", help="download installed items again")
    return parser


def _fetch_all(options: argparse.Namespace) -> int:
    """Fetch each item, even if others fail; return the exit code."""
    from clipdissect.fetch import ITEMS, fetch
    from clipdissect.fetch.user_sources import file_url

    code = 0
    for name in options.items:
        if name not in ITEMS:
            raise unknown("item", name, ITEMS)
    if len(options.items) > 1 and (options.from_file or options.from_url):
        raise DissectError("--from-file and --from-url go with one item")
    sources = [*map(file_url, options.from_file), *options.from_url]
    for name in options.items:
        try:
            fetched = fetch(name, options.folder, sources, options.force)
            _report(name, fetched, options.folder)
        except DissectError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except KeyboardInterrupt:
            print("interrupted: run the same command again to continue", file=sys.stderr)
            return 130
    return code


def _report(name: str, fetched: Fetched, folder: Path | None) -> None:
    from clipdissect.fetch import ITEMS

    if fetched.was_there:
        print(f"{name} is there already: {fetched.path} (--force downloads it again)")
        return
    for file in fetched.files:
        digest = "digest as expected" if file.known else "digest not known beforehand"
        print(f"  {file.source}\n    {digest}; got sha256 {file.sha256}")
        if not file.known and file.source.startswith("http:"):
            print(
                "    it came over an unencrypted connection: compare the digest with another copy's"
            )
    print(f"{name} is in {fetched.path}")
    if fetched.aside:
        print(f"  the incomplete earlier copy is now {fetched.aside}")
    item = ITEMS[name]
    print(f"  licence: {item.licence}\n  to use it: {_use(item, fetched.path, folder)}")


def _use(item: Item, path: Path, folder: Path | None) -> str:
    from clipdissect.utils.paths import data_places

    use = item.use.format(path=path)
    if folder is None:
        return use
    if item.bases is data_places:
        return f"CLIPDISSECT_DATA={shlex.quote(str(folder.expanduser().absolute()))} {use}"
    return f"{use}, with the path above (the library doesn't look there by itself)"
