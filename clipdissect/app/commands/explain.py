"""Show the units behind a prediction: those that fire most unusually, and what they contribute.

clipdissect explain results/dissect/<run> --image photo.jpg
clipdissect explain RUN --image photo.jpg --layer bn2 --class tench --html page.html

The network and the images are those of the run. Contributions are of layers that feed the linear
layer of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors, output_file
from clipdissect.app.console import RIGHT, console, print_lines, text_table

if TYPE_CHECKING:
    from clipdissect.explore.explain import Explanation


UNCLEAR = "(?)"


@exit_on_user_errors
def main() -> None:
    parser = command_parser("explain", __doc__)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument(
        "--image", required=True, help="an image file, or the name of one of the run's images"
    )
    parser.add_argument("--layer", help="one of the run's layers; all by default")
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="CLASS",
        help="whose logit the contributions are to, by name or number; the prediction by default",
    )
    parser.add_argument("--top", type=int, default=10, help="units per layer")
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write a page with pictures, too"
    )
    options = parser.parse_args()
    from clipdissect.app.run_result import result_of_run
    from clipdissect.explore.explanation_page import as_html
    from clipdissect.utils.files import write_text

    result = result_of_run(options.run)
    explanation = result.explain(options.image, options.layer, options.top, options.class_name)
    out = console()
    for title, table in _tables(explanation):
        print_lines(out, [title])
        out.print(table)
    print_lines(out, _closing(explanation))
    if options.html:
        write_text(options.html, as_html(explanation, is_page=True))
        print(f"page: {options.html}")


def _tables(explanation: Explanation) -> Iterator[tuple[str, Any]]:
    from clipdissect.explore.explanation_page import share_in_words

    for layer, rows in explanation.units.groupby("layer", sort=False):
        cells = [
            (
                *_unit(row),
                f"{row['activation']:.3g}",
                share_in_words(row["share_below"], explanation.images),
                f"{row['excess']:.1f}",
            )
            for _, row in rows.iterrows()
        ]
        columns = {**_UNIT, "activation": RIGHT, "on this image": {"no_wrap": True}}
        title = f"{layer}: most unusual activations on {explanation.image}"
        yield title, text_table({**columns, "excess": RIGHT}, cells)
        if layer in explanation.logits:
            yield _contributions(explanation, str(layer))


def _contributions(explanation: Explanation, layer: str) -> tuple[str, Any]:
    logit, table = explanation.logits[layer], explanation.contributions
    cells = [
        (
            *_unit(row),
            f"{row['activation']:.3g}",
            f"{row['mean']:.3g}",
            f"{row['contribution']:+.3f}",
        )
        for _, row in table[table["layer"] == layer].iterrows()
    ]
    columns = {**_UNIT, "activation": RIGHT, "mean": RIGHT, "contribution": RIGHT}
    title = (
        f"{layer}: contributions to {logit.name}, logit {logit.logit:.3f}, mean {logit.mean:.3f}"
    )
    return title, text_table(columns, cells)


_UNIT: dict[str, dict[str, Any]] = {
    "unit": {**RIGHT, "no_wrap": True},
    "description": {"max_width": 40, "no_wrap": True, "overflow": "ellipsis"},
}


def _unit(row: Any) -> tuple[str, str]:
    text = row["description"] or "no description"
    return row["unit"], text if row["clear"] else f"{text} {UNCLEAR}"


def _closing(explanation: Explanation) -> list[str]:
    lines = []
    if explanation.prediction:
        name, probability = explanation.prediction
        lines.append(f"prediction: {name} (probability {probability:.3f})")
    if not explanation.units["clear"].all():
        lines.append(f"{UNCLEAR} descriptions that are not above their null")
    return [*lines, *(f"note: {note}" for note in explanation.notes)]
