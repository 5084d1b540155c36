"""The scorers by the names of `scores=[...]`, built from a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect import text_images
from clipdissect.app.build import build_group
from clipdissect.scores.base import Scorer
from clipdissect.scores.held_out import HeldOut
from clipdissect.scores.scorers import Ablation, Cosy, LabelMetrics, Simulation

Make = Callable[[HeldOut, Any], Scorer]

SCORERS: dict[str, Make] = {
    "simulation": lambda held_out, config: Simulation(held_out),
    "ablation": lambda held_out, config: Ablation(held_out),
    "cosy": lambda held_out, config: Cosy(
        held_out, build_group(text_images.build, config.text_images)
    ),
    "label_metrics": lambda held_out, config: LabelMetrics(held_out, config.scorer.alpha),
}
