"""List a target's modules: output shape for one image, and number of units.

Prints a table and writes nothing. target.layers takes its names; a star marks the selected ones.
Modules that can't be dissected say why.
"""

from __future__ import annotations

import sys
from typing import Any

from clipdissect.app.console import RIGHT, console, print_lines, text_table
from clipdissect.app.launch import launch, temporary_folder


def run(config: Any) -> None:
    from clipdissect.app.build import parameters, settings_of
    from clipdissect.capture.capture import check_layers
    from clipdissect.capture.model_summary import summarise_model

    target = _build(parameters(config.target))
    if target.layers:  # without default layers, list all modules
        check_layers(target, target.layers)
    modules = summarise_model(target, settings_of(config).summary)
    starred = {layer.split("[")[0] for layer in target.layers}
    columns: dict[str, dict[str, Any]] = {
        "": {"width": 1},
        "layer": {"no_wrap": True},
        "type": {"no_wrap": True},
        "output": {"overflow": "fold"},
        "units": RIGHT,
        "summary, or why it has no units": {},
    }
    rows = [
        (
            "*" if module.name in starred else "",
            module.name,
            module.kind,
            module.output,
            "" if module.units is None else module.units,
            module.rule or module.problem,
        )
        for module in modules
    ]
    out = console(pipe_width=200)
    out.print(text_table(columns, rows, target.name))
    print_lines(out, _closing(target, modules))


def _build(options: dict[str, Any]) -> Any:
    """Build the target, with random weights if its own are missing: the table is the same."""
    from clipdissect import targets
    from clipdissect.errors import MissingResource
    from clipdissect.models.checkpoints import RANDOM

    try:
        return targets.build(**options)
    except MissingResource:
        if "weights" not in options or options.get("checkpoint"):
            raise
        return targets.build(**{**options, "weights": RANDOM})


def _closing(target: Any, modules: list[Any]) -> list[str]:
    usable = {module.name: module.units for module in modules if module.units is not None}
    units = [usable[layer] for layer in target.layers if layer in usable]
    lines = [f"{len(modules)} modules, {len(usable)} of them can be dissected"]
    if target.layers:
        lines.append(f"chosen: {len(target.layers)} layers, {sum(units)} units")
    if target.class_names:
        lines.append(f"classes: {target.class_layer}, {len(target.class_names)} names")
    return lines + [f"note: {note}" for note in target.notes]


def main() -> None:
    sys.argv += temporary_folder()  # Hydra's files are discarded
    launch(run, "layers")
