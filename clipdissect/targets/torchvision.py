"""torchvision's classification networks with their own weights and preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from clipdissect.datasets.class_names import class_names, imagenet_names
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.fetch import ITEMS
from clipdissect.models import checkpoints
from clipdissect.models.layer_patterns import kind_of
from clipdissect.targets.base import Target
from clipdissect.utils.dependencies import depends_on

# Layers dissected by default, by the first letters of the network's name: the paper's five of a
# ResNet, the blocks of a transformer, and the stages of the others.
DEFAULT_LAYERS: dict[str, tuple[str, ...]] = {
    "resnet": ("conv1", "layer1", "layer2", "layer3", "layer4"),
    "resnext": ("conv1", "layer1", "layer2", "layer3", "layer4"),
    "wide_resnet": ("conv1", "layer1", "layer2", "layer3", "layer4"),
    "vit": ("encoder.layers.*",),
    "convnext": ("features.1", "features.3", "features.5", "features.7"),
    "swin": ("features.1", "features.3", "features.5", "features.7"),
    "densenet": ("features.denseblock*",),
    "efficientnet": ("features.*",),
    "mobilenet": ("features.*",),
    "maxvit": ("blocks.*",),
    "regnet": ("stem", "trunk_output.*"),
    "shufflenet": ("conv1", "stage*", "conv5"),
    "vgg": ("all_convs",),
    "alexnet": ("all_convs",),
}
NAMES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vit_b_16",
    "vit_b_32",
    "vit_l_32",
    "convnext_tiny",
    "swin_t",
)


def torchvision(
    model: str = "resnet50",
    weights: str = "IMAGENET1K_V1",
    checkpoint: str | None = None,
    classes: str | None = None,
    layers: list[str] | None = None,
) -> Target:
    """Return a network of `torchvision.models`; the preprocessing is that of its weights.

    Args:
        model: such as `resnet50`.
        weights: which of the model's weights; the paper's ResNet-50 is `IMAGENET1K_V1`. `random`
            (seed 0, noted) is for trials.
        checkpoint: a local state dict instead of the download; the number of classes follows its
            last layer.
        classes: class names: a text file, one per line; ImageNet's by default.
        layers: modules to dissect instead of those of `DEFAULT_LAYERS`.

    Raises:
        MissingResource: the weights are neither cached nor downloadable.
        DissectError: unknown model or weights, or a checkpoint that does not fit.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        raise unknown("torchvision model", model, names)
    chosen = _weights(models.get_model_weights(model), model, weights)
    extra = _extra(model, chosen)
    if weights == checkpoints.RANDOM and checkpoint is None:
        network = checkpoints.random(lambda: models.get_model(model, weights=None, **extra))
    else:
        state = checkpoints.read(Path(checkpoint).expanduser()) if checkpoint else _download(chosen)
        network = _with_state(model, extra, state, checkpoint or chosen.url)
    found = _target(model, network.eval(), chosen, classes, layers)
    if checkpoint:
        return replace(found, weights=_named(Path(checkpoint).expanduser(), chosen))
    if weights == checkpoints.RANDOM:
        return replace(found, weights=weights, notes=(checkpoints.RANDOM_NOTE,))
    return replace(found, weights=chosen.name)


def _preset(model: str) -> Callable[..., Target]:
    def build(
        weights: str = "IMAGENET1K_V1",
        checkpoint: str | None = None,
        layers: list[str] | None = None,
    ) -> Target:
        return torchvision(model, weights, checkpoint, layers=layers)

    build.__name__ = build.__qualname__ = model
    build.__doc__ = f"torchvision's {model}; see `torchvision` for the arguments and errors."
    return build


PRESETS = {name: _preset(name) for name in NAMES}


def default_layers(model: str) -> tuple[str, ...]:
    """Return the layers or patterns dissected by default, or none."""
    return next((names for start, names in DEFAULT_LAYERS.items() if model.startswith(start)), ())


def class_layer(model: nn.Module) -> str | None:
    """Return the last linear layer, whose units are a classifier's classes."""
    linear = [name for name, module in model.named_modules() if kind_of(module) == "Linear"]
    return linear[-1] if linear else None


def _target(
    name: str, model: nn.Module, weights: Any, classes: str | None, layers: list[str] | None
) -> Target:
    last = class_layer(model)
    units = getattr(model.get_submodule(last), "out_features", 0) if last else 0
    is_imagenet = units == len(weights.meta["categories"]) == 1000
    names = imagenet_names() if is_imagenet and classes is None else ()
    if classes is not None:
        if last is None:
            raise DissectError(f"{name} has no linear layer that target.classes could name")
        names = class_names(classes, units)
    return Target(
        name,
        model,
        weights.transforms(),
        tuple(layers or default_layers(name)),
        class_layer=last if names else None,
        class_names=names,
    )


def _named(checkpoint: Path, weights: Any) -> str:
    """Return the weights' name if the file has the digest in torchvision's name, else a digest."""
    digits = Path(weights.url).stem.rpartition("-")[2]
    return checkpoints.of_file(checkpoint, f"sha256:{digits}", weights.name)


def _weights(available: Any, model: str, name: str) -> Any:
    """Return a member of a model's weights; for random weights, the one whose transform to use."""
    members = available.__members__
    if name == checkpoints.RANDOM:
        return members.get("IMAGENET1K_V1", available.DEFAULT)
    if name not in members:
        raise unknown(f"weights of {model}", name, [*members, checkpoints.RANDOM])
    return members[name]


def _with_state(
    model: str, extra: dict[str, Any], state: dict[str, Tensor], source: str
) -> nn.Module:
    """Return the network with a state dict's tensors and number of classes."""
    from torchvision import models

    network: nn.Module = models.get_model(model, weights=None, **extra)
    classes = checkpoints.rows(state, class_layer(network))
    if classes not in (None, 1000):
        network = models.get_model(model, weights=None, num_classes=classes, **extra)
    checkpoints.load(network, state, source)
    return network


def _extra(model: str, weights: Any) -> dict[str, Any]:
    """Return builder arguments that torchvision sets together with the weights."""
    if model in ("inception_v3", "googlenet"):
        return {"transform_input": True, "init_weights": False}
    return {"image_size": weights.meta["min_size"][0]} if model.startswith("vit_") else {}


def _fetch(file: str) -> str:
    name = next((item.name for item in ITEMS.values() if item.place == file), None)
    return f"clipdissect fetch {name}, " if name else ""


def cached_file(weights: Any) -> Path:
    """Return where torchvision keeps the file of weights, downloaded or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.url).rsplit("/", 1)[-1]


def _download(weights: Any) -> dict[str, Any]:
    cached = cached_file(weights)
    depends_on(cached)
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (RuntimeError, UnpicklingError) as error:  # another digest than the name says, or cut
        raise DissectError(f"{cached} is damaged; delete it ({error})") from error
    except OSError as error:  # no network, a refused connection, a dead host
        raise MissingResource(
            f"the weights {weights} ({error})",
            [str(cached), weights.url],
            f"{_fetch(cached.name)}download the file to {cached}, set target.checkpoint, or use "
            f"profile=offline",
        ) from error
