"""Networks whose units detect known concepts by construction; deterministic, untrained."""

from __future__ import annotations

from clipdissect.testing.filters import Filters, planted_filters
from clipdissect.testing.label_encoder import LabelEncoder
from clipdissect.testing.linear_probes import Probed, planted_probes
from clipdissect.testing.mixtures import Mixtures, planted_colours, planted_labels
from clipdissect.testing.synthetic_units import Planted

__all__ = [
    "Filters",
    "LabelEncoder",
    "Mixtures",
    "Planted",
    "Probed",
    "planted_colours",
    "planted_filters",
    "planted_labels",
    "planted_probes",
]
