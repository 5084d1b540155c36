"""Synthetic scenes with a label per pixel, in Broden's layout."""

from __future__ import annotations

from clipdissect.probe.scenes.write import SceneSettings, write_once

__all__ = ["SceneSettings", "write_once"]
