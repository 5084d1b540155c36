"""Write a run's report again from its files, without networks or images.

clipdissect report results/dissect/<run>                    writes report/index.html there
clipdissect report results/dissect/<run> --single-file      everything in that one file
clipdissect report results/dissect/<run> --against milan=labels.csv --against other=<run>
"""

from __future__ import annotations

import argparse

from clipdissect.app.commands import command_parser, exit_on_user_errors


@exit_on_user_errors
def main() -> None:
    parser = command_parser("report", __doc__)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--single-file", action="store_true", help="everything in index.html")
    parser.add_argument("--mb", type=float, default=30.0, help="of pictures in a single file")
    parser.add_argument(
        "--against",
        type=named,
        action="append",
        metavar="NAME=PATH",
        help="labels of another method to show with the run's: a file or a run's folder; replaces "
        "those in the report",
    )
    options = parser.parse_args()
    from clipdissect import report

    if options.against:
        others = {name: report.read_labels(name, path) for name, path in options.against}
        report.set_others(options.run, others)
    print(report.build(options.run, single_file=options.single_file, megabytes=options.mb))


def named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"'{text}' isn't NAME=PATH")
    return name, path
