"""Metrics of descriptions, against ground truth where a layer has it."""

from __future__ import annotations

from clipdissect.evaluation.bootstrap import Resampling, difference, interval, share_interval
from clipdissect.evaluation.last_layer import Evaluation, evaluate
from clipdissect.evaluation.layers import final_layer, layer_metrics, metrics
from clipdissect.evaluation.measures import values
from clipdissect.evaluation.scenes import places365
from clipdissect.evaluation.truth import ClassLabels
from clipdissect.evaluation.units import Units, unit_table
from clipdissect.evaluation.vectors import Sentences

__all__ = [
    "ClassLabels",
    "Evaluation",
    "Resampling",
    "Sentences",
    "Units",
    "difference",
    "evaluate",
    "final_layer",
    "interval",
    "layer_metrics",
    "metrics",
    "places365",
    "share_interval",
    "unit_table",
    "values",
]
