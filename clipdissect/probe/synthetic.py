"""Made-up, densely labelled scenes: what Broden is for, where Broden can't be had."""

from __future__ import annotations

from clipdissect.probe.base import Probe
from clipdissect.probe.broden import read
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
    """Scenes of coloured and textured shapes and stamps on photographs, with exact masks.

    Written once, in Broden's own layout, and read as `broden` is. The categories are color (every
    pixel, by its hue), shape, texture, object (the stamps, by a special and a general name; left
    out where there are none) and scene (the photograph, of the whole image).

    Args:
        images: how many.
        seed: of the scenes.
        size: of images and masks, in pixels.
        photographs: backgrounds are crops of packaged photographs; otherwise all are plain.
        stamps: `auto` uses the stamps of Tux Paint where they are here already, `fetch` gets them,
            `none` does without: other scenes, with another name on disk.
        root: the folder to write into; by default `synthetic_broden` in the user cache.
        limit, sample, identity, on_error: see `ProbeOptions`.
        sample_seed: of the draw of `sample`.

    Raises:
        MissingResource: photographs or stamps that were asked for can't be had.
        DissectError: a value that isn't allowed, or a folder that can't be written.
    """
    from clipdissect.probe.scenes import made
    from clipdissect.probe.scenes.sources import find

    not_empty(root=root)
    choices = ProbeOptions(limit, sample, sample_seed, identity, on_error=on_error)
    folder = made(images, seed, size, find(photographs, stamps), root)
    return read("synthetic_broden", folder, choices)
