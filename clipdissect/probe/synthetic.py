"""Synthetic, densely labelled scenes: a substitute for Broden."""

from __future__ import annotations

from clipdissect.probe.base import Probe
from clipdissect.probe.broden import read_broden
from clipdissect.probe.options import ProbeOptions, not_empty


def synthetic_broden(
    images: int = 1000,
    seed: int = 0,
    size: int = 112,
    photographs: bool = True,
    stamps: str = "auto",
    root: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    sample_seed: int = 0,
    identity: str = "content",
    on_error: str = "skip",
) -> Probe:
    """Draw scenes of shapes, textures and stamps on photographs, with exact masks.

    Categories: color, shape, texture, object (stamps) and scene (the photograph).

    Args:
        images: number of images.
        seed: of the scenes.
        size: of images and masks, in pixels.
        photographs: whether backgrounds are crops of photographs, not plain.
        stamps: `auto` (if installed or cached), `fetch` or `none`; changes all scenes.
        root: folder to write into; default: `synthetic_broden` in the user cache.
        limit, sample, identity, on_error: see `ProbeOptions`.
        sample_seed: of the draw of `sample`.
    """
    from clipdissect.probe.scenes import SceneSettings, write_once
    from clipdissect.probe.scenes.sources import find_sources

    not_empty(root=root)
    options = ProbeOptions(limit, sample, sample_seed, identity, on_error=on_error)
    settings = SceneSettings(images, seed, size, find_sources(photographs, stamps))
    return read_broden("synthetic_broden", write_once(settings, root), options)
