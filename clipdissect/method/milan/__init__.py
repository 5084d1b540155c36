"""MILAN: a trained captioner of the regions that a unit is most active on."""

from __future__ import annotations

from clipdissect.method.milan.method import Milan

__all__ = ["Milan"]
