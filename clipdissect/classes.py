"""Class names that serve as ground truth for a last layer."""

from __future__ import annotations

# WordNet has two synsets named `crane`, and timm ships the bare word for both.
_CRANES = {134: "crane, bird", 517: "crane, machine"}


def imagenet_names() -> tuple[str, ...]:
    """The 1000 ImageNet class names with all synonyms (`tench, Tinca tinca`), in class order.

    From timm's `ImageNetInfo`; the two cranes are told apart, so all are distinct.
    """
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k")
    return tuple(_CRANES.get(i) or names.index_to_description(i) for i in range(1000))
