"""Labels of other methods, shown next to a run's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipdissect import method
from clipdissect.errors import DissectError, MissingResource
from clipdissect.method import Job
from clipdissect.report.report_data import read_report_data
from clipdissect.report.run import run_folder

Labels = dict[str, dict[str, str]]  # layer to unit number to label


def read_labels(name: str, source: str | Mapping[str, Any]) -> Labels:
    """Read a method's labels from a run's folder, a CSV file, or a method's name and parameters.

    The file has columns `layer, unit, description`; the method must read labels from a file,
    such as `{name: published_milan, path: FILE}`. `name` is the method's name in messages.
    """
    if isinstance(source, str):
        path = Path(source).expanduser()
        path = path / "descriptions.csv" if path.is_dir() else path
        if not path.is_file():
            hint = "report.against names folders of runs, and files of labels"
            raise MissingResource(f"the labels of {name}", [str(path.absolute())], hint)
        source = {"name": "published", "path": str(path)}
    built = method.build(**source)
    if built.needs:
        raise DissectError(
            f"report.against.{name} must read labels from a file; "
            f"{built.name} describes units itself"
        )
    table = built.describe(Job()).descriptions
    labels: Labels = {}
    columns = (table[column] for column in ("layer", "unit", "description"))
    for layer, unit, text in zip(*columns, strict=True):
        labels.setdefault(str(layer), {})[str(unit)] = str(text)
    return labels


def set_others(run: str | Path, others: Mapping[str, Labels]) -> None:
    """Replace other methods' labels in a run's report data; drop the outdated agreement."""
    folder = run_folder(run)
    data = read_report_data(folder)
    facts = {key: v for key, v in data.facts.items() if not key.startswith("agreement")}
    replace(data, facts={**facts, "others": dict(others)}).write(folder)
