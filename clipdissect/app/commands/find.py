"""Find a run's units by meaning: those whose top images are closest to a text or an image.

clipdissect find results/dissect/<run> "striped fur"
clipdissect find results/dissect/<run> --image photo.jpg
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors
from clipdissect.app.console import RIGHT, console, print_lines, text_table
from clipdissect.app.help import conf_folder
from clipdissect.app.launch import set_up_logging

if TYPE_CHECKING:
    import pandas as pd

    from clipdissect.explore.find import Found


@exit_on_user_errors
def main() -> None:
    parser = command_parser("find", __doc__)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("text", nargs="*", help="what the units are searched for; one table each")
    image = "images to search for instead of a text; of several, their mean"
    parser.add_argument("--image", action="append", metavar="FILE", help=image)
    layers = "layers to search (all)"
    parser.add_argument("--layers", nargs="+", metavar="LAYER", help=layers)
    parser.add_argument("--top", type=int, default=10, help="units per query (%(default)s)")
    options = parser.parse_args()
    set_up_logging(logging.WARNING)
    found = _find(options)
    out = console()
    for query, table in found.table.groupby("query", sort=False):
        out.print(_table(str(query), table))
    print_lines(out, [f"note: {note}" for note in found.notes])
    explained = (
        "p: share of random queries as close to the unit; p adjusted: to any searched unit, which "
        "allows for their number"
    )
    print_lines(out, [explained])


def _find(options: Any) -> Found:
    from clipdissect import load
    from clipdissect.explore.find import asked, checked_vectors, find

    result = load(options.run)
    checked_vectors(result)  # before the encoder is built
    queries = asked(result, options.text or None, options.image, _encoder(Path(options.run)))
    return find(result, queries, options.layers, options.top)


def _encoder(folder: Path) -> Any:
    """Build the encoder of a run's config; None if it has no config."""
    from hydra import initialize_config_dir

    from clipdissect.app.build import build_groups
    from clipdissect.app.schema import register
    from clipdissect.app.scoring.sources import config_of

    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = config_of(folder.expanduser())
    return None if config is None else build_groups(config, ["encoder"])["encoder"]


def _table(query: str, table: pd.DataFrame) -> Any:
    columns = {"unit": {"style": "dim"}, "description": {}, "score": RIGHT, "p": RIGHT}
    rows = [
        (f"{row.layer}/{row.unit}", row.description, f"{row.score:.3f}", *_shares(row))
        for row in table.itertuples()
    ]
    return text_table(columns | {"p adjusted": RIGHT}, rows, query)


def _shares(row: Any) -> tuple[str, str]:
    return f"{row.p_value:.3f}", f"{row.p_adjusted:.3f}"
