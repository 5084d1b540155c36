"""Networks whose units detect known concepts by construction, to try methods on.

`planted_filters` has filters set by hand for the colours and shapes of `synthetic_broden`, and
units for formulas of them. `planted_probes` puts linear probes for any concepts on a layer of any
network. `LabelEncoder` stands in for an ideal image-text encoder. Nothing here is trained, and
everything is the same each time.
"""

from __future__ import annotations

from clipdissect.planted.base import Planted
from clipdissect.planted.encoder import LabelEncoder
from clipdissect.planted.filters import Filters, planted_filters
from clipdissect.planted.probes import Probed, planted_probes

__all__ = [
    "Filters",
    "LabelEncoder",
    "Planted",
    "Probed",
    "planted_filters",
    "planted_probes",
]
