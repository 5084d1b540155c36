"""Data for a report that only the run itself can compute, in `<run>/report/material/`."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clipdissect.results.run_files import jsonable
from clipdissect.utils.files import write_text
from clipdissect.utils.memo import Memo

VERSION = 1  # raise it when older files can no longer be read

REPORT = "report"
DATA = "material"
THUMBNAILS = "thumbnails"


@dataclass(frozen=True)
class ReportData:
    """Report data besides the run's tables.

    Args:
        facts: `images`, `probe_images`, `paths`, `truth` (layer to class names), `others` (method
            to layer to unit to label), `agreement` (layer to one number per unit), `agreement_by`.
        pictures: image to thumbnail file and, with `paths=absolute`, the image's path.
        layers: layer to its histograms, thresholds, `outlines` (SVG path per unit and slot, None
            where the network was not run again), `heat` maps of `width` columns (see
            `outlines.heat_maps`), and `neighbours` (`[unit, cosine]` of latents with similar
            directions in the decoder, per unit); all optional.
        digest: of the files that they were read from; empty if they weren't.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, list[str | None]] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    digest: str = ""

    def write(self, run: Path) -> None:
        folder = remove_report_data(run)
        for number, (layer, values) in enumerate(self.layers.items()):
            _write(folder / f"layer-{number}.json", {"layer": layer, **values})
        _write(folder / "pictures.json", self.pictures)
        # Written last: it marks the files as complete.
        _write(folder / "facts.json", {"version": VERSION, **self.facts})


def remove_report_data(run: Path) -> Path:
    """Remove a run's report data, except thumbnails, and return their folder."""
    folder = run / REPORT / DATA
    for name in ("facts.json", "layer-*.json"):  # facts mark the files as complete
        for old in folder.glob(name):
            old.unlink()
    return folder


def read_report_data(run: Path) -> ReportData:
    """Read a run's report data; empty if missing, incomplete or of another version."""
    folder = run / REPORT / DATA
    facts = read_json(folder / "facts.json")
    if facts.get("version") != VERSION:
        return ReportData()
    paths = sorted(
        folder.glob("layer-*.json"), key=lambda path: int(path.stem.removeprefix("layer-"))
    )
    paths.append(folder / "pictures.json")
    hasher = hashlib.blake2b(digest_size=20)
    for path in paths:
        hasher.update(path.read_bytes() if path.is_file() else b"")
    digest = hasher.hexdigest()
    *found, pictures = _parsed.get(digest, lambda: [*map(read_json, paths)])
    layers = {
        values["layer"]: {key: v for key, v in values.items() if key != "layer"}
        for values in found
        if values
    }
    return ReportData(facts, pictures, layers, digest)


_parsed: Memo[list[dict[str, Any]]] = Memo(2)  # layers and pictures by the files' contents


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or invalid."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def rounded(value: float | None) -> float | int | None:
    """Round to 4 significant digits, for small files; None for NaN and infinities."""
    if value is None or not math.isfinite(value):
        return None
    number = float(f"{value:.4g}")
    return int(number) if number == int(number) and abs(number) < 1e15 else number


def compact_json(values: Any) -> str:
    """Return compact JSON that is safe in a script element; undefined numbers are null."""
    try:
        text = _dumps(values)
    except (TypeError, ValueError):  # NaN, or a type that JSON doesn't have
        text = _dumps(jsonable(values, reasons=False))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_dumps = partial(json.dumps, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _write(path: Path, values: Any) -> None:
    write_text(path, compact_json(values), durable=False)
