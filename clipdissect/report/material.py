"""Files that a run leaves for its report, so that pages are made without networks or images.

`<run>/report/material/`: `facts.json`, `pictures.json`, and `layer-<number>.json` for each layer.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipdissect.results.run_files import jsonable
from clipdissect.utils.files import write_text

VERSION = 1  # raise it when older files can't be read any more

REPORT = "report"
MATERIAL = "material"
THUMBNAILS = "thumbnails"


@dataclass(frozen=True)
class Material:
    """What pages are made from besides the run's tables.

    Args:
        facts: `images`, `probe_images`, `paths`, `truth` (layer to class names), `others` (name to
            layer to unit to label), `agreement` (layer to one number a unit), `agreement_by`, and
            `notes`.
        pictures: image to its thumbnail's file and, with `paths=absolute`, its own.
        layers: layer to `low`, `high`, `counts`, `images`, `whole` of its histograms, `thresholds`,
            `threshold_images` and `outlines` (a list a unit: a path, or None where the network
            wasn't shown the image again); any of them may be missing.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, list[str | None]] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, run: Path) -> None:
        """Write the files below a run's folder; facts, which mark them as whole, last."""
        folder = run / REPORT / MATERIAL
        (folder / "facts.json").unlink(missing_ok=True)
        for old in folder.glob("layer-*.json"):
            old.unlink()
        for number, (layer, values) in enumerate(self.layers.items()):
            write_compact(folder / f"layer-{number}.json", {"layer": layer, **values})
        write_compact(folder / "pictures.json", self.pictures)
        write_compact(folder / "facts.json", {"version": VERSION, **self.facts})


def read_material(run: Path) -> Material:
    """The files below a run's folder; empty where they are missing, unfinished or of other code."""
    folder = run / REPORT / MATERIAL
    facts = _read(folder / "facts.json")
    if facts.get("version") != VERSION:
        return Material()
    layers = [_read(path) for path in sorted(folder.glob("layer-*.json"), key=_number)]
    return Material(
        facts, _read(folder / "pictures.json"), {own.pop("layer"): own for own in layers if own}
    )


def short(value: float | None, digits: int = 4) -> float | int | None:
    """A number with a few significant digits, for small files; None for NaN and infinities."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded


def write_compact(path: Path, values: Any) -> None:
    """Write JSON without spaces, atomically."""
    write_text(path, compact(values))


def compact(values: Any) -> str:
    """JSON without spaces, that may stand in a script element as well as in a file.

    Undefined numbers are null.
    """
    plain = jsonable(values, reasons=False)
    text = json.dumps(plain, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("layer-"))


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
