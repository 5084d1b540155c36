"""List a target's modules: what they return for one image, and how many units they have.

Prints a table and writes nothing. Names in it are what target.layers takes; a star marks those that
are chosen now. Modules that can't be dissected say why.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import launch_without_folder

PIPE_WIDTH = 200


def run(config: Any) -> None:
    """Build the target of the config, and print its modules."""
    from clipdissect.app.build import parameters, settings_of
    from clipdissect.capture.capture import check_layers
    from clipdissect.capture.model_summary import summarise_model

    chosen = _build(parameters(config.target))
    if chosen.layers:  # of a network that has no default ones, all modules are to be seen
        check_layers(chosen.model, chosen.layers)
    modules = summarise_model(chosen, settings_of(config).summary)
    _print(chosen, modules)


def _build(given: dict[str, Any]) -> Any:
    """The target; with random weights where its own can't be had, for the table is the same."""
    from clipdissect import targets
    from clipdissect.errors import MissingResource
    from clipdissect.models.checkpoints import RANDOM

    try:
        return targets.build(**given)
    except MissingResource:
        if "weights" not in given or given.get("checkpoint"):
            raise
        return targets.build(**{**given, "weights": RANDOM})


def _print(chosen: Any, modules: list[Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    table = Table(title=escape(chosen.name), title_justify="left", box=None, padding=(0, 2))
    table.add_column("", width=1)
    table.add_column("layer", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("output", overflow="fold")
    table.add_column("units", justify="right")
    table.add_column("summary, or why it has no units")
    starred = {layer.split("[")[0] for layer in chosen.layers}
    for module in modules:
        units = "" if module.units is None else str(module.units)
        table.add_row(
            "*" if module.name in starred else "",
            *map(
                escape,
                (module.name, module.kind, module.output, units, module.rule or module.problem),
            ),
        )
    console.print(table)
    for line in _closing(chosen, modules):
        console.print(line, markup=False, soft_wrap=True)


def _closing(chosen: Any, modules: list[Any]) -> list[str]:
    usable = {module.name: module.units for module in modules if module.units is not None}
    units = [usable[layer] for layer in chosen.layers if layer in usable]
    lines = [f"{len(modules)} modules, {len(usable)} of them can be dissected"]
    if chosen.layers:
        lines.append(f"chosen: {len(chosen.layers)} layers, {sum(units)} units")
    if chosen.class_names:
        lines.append(f"classes: {chosen.class_layer}, {len(chosen.class_names)} names")
    return lines + [f"note: {note}" for note in chosen.notes]


def main() -> None:
    """Entry point of `clipdissect layers`."""
    launch_without_folder(run, "layers")


if __name__ == "__main__":
    main()
