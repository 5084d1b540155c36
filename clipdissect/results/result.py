"""The result of a dissection."""

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
from clipdissect.targets import Target


@dataclass(frozen=True)
class Result:
    """What a dissection found.

    Args:
        descriptions: one row a unit: `layer, unit, description, similarity`, the runners-up
            (`description_2, similarity_2`, ...), `margin` (best minus second), `flags` (a tuple of
            names, see `clipdissect.results.flags`), `null_similarity` (the best score with shuffled
            images); with the truth known, `truth_rank`: where the right concept stands among all
            texts, from 1; ties share the middle of their ranks, and dead units have none.
        top_images: `layer, unit, rank, image, activation`.
        run: what the numbers depend on, and how long they took.
        histograms: layer to the histograms of its units' activations, for reports; empty of
            methods that see none.
        target: the network as the method showed it the images, for reports; None: as it was given.
        thresholds: layer to the activations above which its units fire, for reports; empty of
            methods that have none.
        vocabulary: what the descriptions were chosen from; None where they are free text, or come
            from a file that doesn't say.
    """

    descriptions: pd.DataFrame
    top_images: pd.DataFrame
    run: dict[str, Any] = field(default_factory=dict)
    histograms: dict[str, Histograms] = field(default_factory=dict)
    target: Target | None = None
    thresholds: dict[str, Float[Tensor, " units"]] = field(default_factory=dict)
    vocabulary: Concepts | None = None

    def save(self, folder: str | Path) -> Path:
        """Write `descriptions.csv`, `top_images.csv` and, last, `run.json`; returns the folder."""
        return write_result(Path(folder).expanduser(), self.descriptions, self.top_images, self.run)
