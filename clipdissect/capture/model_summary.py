"""Summary of a network's modules and their outputs on blank images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from clipdissect.capture.infer_layout import Trial, try_out
from clipdissect.capture.pooling import Summary
from clipdissect.errors import DissectError
from clipdissect.models.layer_patterns import kind_of
from clipdissect.targets import Target


@dataclass
class ModuleSummary:
    """One module of a network: its runs, and its output for two images."""

    name: str
    kind: str
    runs: int = 0
    output: str = ""  # shape or parts, for two images
    units: int | None = None  # None if it can't be dissected: see `problem`
    rule: str = ""  # how its positions are pooled
    problem: str = ""


def summarise_model(target: Target, summary: Summary | None = None) -> list[ModuleSummary]:
    """Return a target's modules, in order, with their outputs and numbers of units."""
    modules = dict(target.model.named_modules(remove_duplicate=False))
    modules.pop("")
    trial = try_out(target, list(modules))
    return [_row(name, module, trial, summary or Summary()) for name, module in modules.items()]


def _row(name: str, module: nn.Module, trial: Trial, summary: Summary) -> ModuleSummary:
    seen = trial.passes[0]
    output = seen.words.get(name, "").removeprefix("a tensor ")
    row = ModuleSummary(name, kind_of(module), seen.runs[name], output)
    if row.runs != 1:
        row.problem = f"runs {row.runs} times" if row.runs else "not run"
    elif name in seen.problems:
        row.problem = f"no tensor{': select a part, such as [0]' if '(' in output else ''}"
    else:
        try:
            reading, shape = trial.read(name, summary), seen.shapes[name]
            row.units, row.rule = reading.units_of(shape), reading.describe()
            words = ["images" if i == reading.images else str(n) for i, n in enumerate(shape)]
            row.output = f"({', '.join(words)})"
        except DissectError as error:
            row.problem = str(error).removeprefix(f"layer {name} returns ")
    return row
