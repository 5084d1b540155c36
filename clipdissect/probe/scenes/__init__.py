"""Made-up scenes whose every pixel's labels are known, in Broden's own layout."""

from __future__ import annotations

from clipdissect.probe.scenes.write import made, write

__all__ = ["made", "write"]
