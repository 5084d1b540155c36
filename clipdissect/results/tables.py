"""What a method returns: descriptions, top images and the manifest of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from clipdissect.concepts import Concepts
from clipdissect.results.histograms import Histograms
from clipdissect.results.run_files import write_result
from clipdissect.results.vectors import UnitVectors
from clipdissect.targets import Target


@dataclass(frozen=True)
class ResultTables:
    """Descriptions, top images and run manifest of a dissection.

    Args:
        descriptions: one row per unit: `layer, unit, description, similarity`, the runners-up
            (`description_2, similarity_2`, ...), `margin` (best minus second), `unit_flags` (a
            tuple, see `results.flags`), `null_similarity` (best score with shuffled images) and,
            with ground truth, `truth_rank` (from 1, ties averaged; NaN for dead units); where
            several meanings were looked for, `meanings`, their number, and `formula` (an OR).
        top_images: `layer, unit, rank, image, activation`, and `meaning` where any was looked for.
        run: the manifest, with seconds per stage.
        histograms: per layer; empty if not computed.
        target: the target with the method's preprocessing; None if unchanged.
        thresholds: activation thresholds per layer, if the method has any.
        vocabulary: the candidate texts; None if free text or unknown.
        unit_metrics: `layer, unit` and numbers that need no label, see `results.coherence`; empty
            if the method embeds no images.
        meanings: `layer, unit, meaning` (from 1, the largest share first; of activation ranges, the
            highest first), `share`, `images`, `description, similarity` and further columns, a row
            per meaning of a unit; empty unless the method looks for several.
        vectors: of the units, in the encoder's space; None if the method embeds no images.
    """

    descriptions: pd.DataFrame
    top_images: pd.DataFrame
    run: dict[str, Any] = field(default_factory=dict)
    histograms: dict[str, Histograms] = field(default_factory=dict)
    target: Target | None = None
    thresholds: dict[str, Float[Tensor, " units"]] = field(default_factory=dict)
    vocabulary: Concepts | None = None
    unit_metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    meanings: pd.DataFrame = field(default_factory=pd.DataFrame)
    vectors: UnitVectors | None = None

    def save(self, folder: str | Path) -> Path:
        """Write the tables, as CSV files, the vectors and, last, `run.json`; return the folder."""
        tables = self.descriptions, self.top_images, self.run, self.unit_metrics, self.meanings
        return write_result(Path(folder).expanduser(), *tables, self.vectors)
