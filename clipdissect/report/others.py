"""Labels of other methods, to stand beside a run's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipdissect import method
from clipdissect.errors import DissectError, MissingResource
from clipdissect.method import Job
from clipdissect.report.loading import run_folder
from clipdissect.report.material import read_material

Labels = dict[str, dict[str, str]]  # layer to unit's number to label


def read_labels(name: str, source: str | Mapping[str, Any]) -> Labels:
    """Labels of a run's folder, a CSV file, or a method that reads a file.

    Args:
        name: what to call them in messages.
        source: a folder with `descriptions.csv`; a file with columns `layer, unit, description`; or
            a method's `name` and parameters, such as `{name: published_milan, path: FILE}`.

    Raises:
        MissingResource: there is no such file.
        DissectError: a file without the columns.
    """
    if isinstance(source, str):
        path = Path(source).expanduser()
        path = path / "descriptions.csv" if path.is_dir() else path
        if not path.is_file():
            raise MissingResource(
                f"the labels of {name}", [str(path.absolute())],
                "report.against names folders of runs, and files of labels",
            )  # fmt: skip
        source = {"name": "published", "path": str(path)}
    built = method.build(**source)
    if built.needs:
        raise DissectError(f"report.against.{name} must read labels from a file; "
                           f"{built.name} describes units itself")  # fmt: skip
    table = built.describe(Job()).descriptions
    labels: Labels = {}
    for layer, unit, text in zip(
        table["layer"], table["unit"], table["description"], strict=True
    ):  # fmt: skip
        labels.setdefault(str(layer), {})[str(unit)] = str(text)
    return labels


def set_others(run: str | Path, others: Mapping[str, Labels]) -> None:
    """Put other labels into a run's material, in place of those that are there.

    Agreement with the earlier ones goes: it takes a sentence encoder to know the new.

    Args:
        run: the folder.
        others: name to labels.

    Raises:
        MissingResource: there is no such run.
        DissectError: it is a file.
    """
    folder = run_folder(run)
    material = read_material(folder)
    kept = {k: v for k, v in material.facts.items() if not k.startswith("agreement")}
    replace(material, facts={**kept, "others": dict(others)}).write(folder)
