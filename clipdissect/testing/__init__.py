"""Networks whose units detect known concepts by construction, for testing methods.

`planted_filters` has hand-set filters for the colours and shapes of `synthetic_broden`, and units
for formulas of them. `planted_probes` puts linear probes for any concepts on a layer of any
network. `LabelEncoder` is an ideal image-text encoder. Nothing is trained; all is deterministic.
"""

from __future__ import annotations

from clipdissect.testing.filters import Filters, planted_filters
from clipdissect.testing.label_encoder import LabelEncoder
from clipdissect.testing.linear_probes import Probed, planted_probes
from clipdissect.testing.synthetic_units import Planted

__all__ = [
    "Filters",
    "LabelEncoder",
    "Planted",
    "Probed",
    "planted_filters",
    "planted_probes",
]
